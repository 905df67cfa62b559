"""The guest kernel and its initramfs, made once from Debian's package and our agent.

`guest/fetch-kernel.sh ASSETS` unpacks the package (as it does for `./run setup`) and
`guest/build.sh ASSETS` builds the agent. The layout read here is

    ASSETS/kernel/<release>/vmlinuz          as in the package's /boot
    ASSETS/kernel/<release>/config
    ASSETS/kernel/<release>/modules/         the package's /lib/modules/<release>
    ASSETS/microvmd-agent
    ASSETS/busybox                           static, from guest/fetch-shell.sh; may be missing

and what comes out is CACHE/kernel/<digest>/{vmlinux,initrd}, named by the content of all that went
in. Several processes may prepare at once: each makes its own and the first rename wins.

Debian's cloud kernels are packed with zstd, which Python 3.11 does not have: libzstd is loaded,
which apt and dpkg of every Debian depend on.
"""

import ctypes
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What the guest needs that Debian builds as modules; their dependencies come by themselves.
# virtio_mmio first, so that the others find their devices when they load.
MODULES = (
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio-rng",
    "erofs",
    "overlay",
    # Ends connections that a restore has cut.
    "tcp_diag",
)
# Only for a machine whose agent is reached by vsock (Firecracker).
VSOCK_MODULES = ("vmw_vsock_virtio_transport",)
# Not named as dependencies: erofs asks for it at run time (6.12 cloud kernel).
_SOFT = {"erofs": ("libcrc32c",)}

AGENT = "microvmd-agent"
SHELL = "busybox"
_FORMAT = b"5"  # raise it when the way of making changes
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_XZ_MAGIC = b"\xfd7zXZ\x00"
_MAX_VMLINUX = 1 << 30


class KernelError(Exception):
    """The assets do not hold a kernel that a guest could boot."""


@dataclass(frozen=True, slots=True)
class GuestKernel:
    release: str
    vmlinux: Path
    initrd: Path
    digest: str


def prepare(assets: Path, cache: Path) -> GuestKernel:
    """Make vmlinux and initramfs ready, or find them ready. Blocks for about a second.

    Raises:
        KernelError: no kernel, agent or module where it should be.
    """
    source = _newest(assets / "kernel")
    agent = assets / AGENT
    if not agent.is_file():
        raise KernelError(f"{agent} is missing: run guest/build.sh {assets}")
    modules = _module_files(source / "modules", MODULES)
    wider = _module_files(source / "modules", (*MODULES, *VSOCK_MODULES))
    vsock = wider[len(modules) :]
    inputs = [source / "vmlinuz", agent, *wider]
    shell = assets / SHELL
    if shell.is_file():
        inputs.append(shell)
    digest = _digest(source.name, inputs)
    ready = cache / "kernel" / digest
    if not ready.is_dir():
        _make(source / "vmlinuz", agent, shell, modules, vsock, ready)
    return GuestKernel(source.name, ready / "vmlinux", ready / "initrd", digest)


def _newest(kernels: Path) -> Path:
    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path.name)]

    found = [path for path in kernels.glob("[0-9]*") if (path / "vmlinuz").is_file()]
    if not found:
        raise KernelError(f"no kernel in {kernels}: run guest/fetch-kernel.sh {kernels.parent}")
    return max(found, key=version)


def _digest(release: str, inputs: list[Path]) -> str:
    total = hashlib.sha256(_FORMAT + release.encode())
    for path in inputs:
        total.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:32]


def _make(
    vmlinuz: Path,
    agent: Path,
    shell: Path,
    modules: list[Path],
    vsock: list[Path],
    ready: Path,
) -> None:
    ready.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=ready.parent))
    try:
        _write(scratch / "vmlinux", extract_vmlinux(vmlinuz.read_bytes()))
        program = shell.read_bytes() if shell.is_file() else None
        _write(scratch / "initrd", initramfs(agent.read_bytes(), modules, program, vsock))
        scratch.chmod(0o755)
        try:
            scratch.rename(ready)
        except OSError:
            if not ready.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)


# The kernel.


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst of the kernel).

    QEMU boots it directly; the bzImage would unpack itself under emulation, which takes 0.8 s.
    """
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise KernelError("vmlinuz is no bzImage")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if payload.startswith(_ZSTD_MAGIC):
        # The build appends the size of the unpacked kernel.
        (size,) = struct.unpack("<I", payload[-4:])
        vmlinux = _unzstd(payload[:-4], size)
    elif payload.startswith(_XZ_MAGIC):
        vmlinux = lzma.LZMADecompressor().decompress(payload, max_length=_MAX_VMLINUX)
    elif payload.startswith(b"\x7fELF"):
        vmlinux = payload
    else:
        raise KernelError(f"vmlinuz is packed in an unknown way ({payload[:4].hex()})")
    if not vmlinux.startswith(b"\x7fELF"):
        raise KernelError("what vmlinuz holds is no ELF file")
    return vmlinux


def _unzstd(packed: bytes, size: int) -> bytes:
    if size > _MAX_VMLINUX:
        raise KernelError(f"vmlinuz claims to unpack to {size} bytes")
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise KernelError(f"libzstd is missing: {error}") from error
    library.ZSTD_decompress.restype = ctypes.c_size_t
    buffer = ctypes.create_string_buffer(size)
    arguments = (buffer, ctypes.c_size_t(size), packed, ctypes.c_size_t(len(packed)))
    if library.ZSTD_decompress(*arguments) != size:
        raise KernelError("vmlinuz does not unpack")
    return buffer.raw


# The modules.


def _module_files(modules: Path, wanted: tuple[str, ...]) -> list[Path]:
    """The files of the modules `wanted` and what they depend on, in the order of loading.

    Read from the modules themselves: the package has no modules.dep (depmod makes it on install).
    """
    files = {_plain(path): path for path in (modules / "kernel").rglob("*.ko*")}
    listing = modules / "modules.builtin"
    builtin = {_plain(Path(line)) for line in listing.read_text().splitlines()}
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in ordered or name in builtin:
            return
        if name not in files:
            raise KernelError(f"the kernel has no module {name}")
        for dependency in (*_depends(files[name]), *_SOFT.get(name, ())):
            add(dependency)
        ordered[name] = files[name]

    for name in wanted:
        add(name)
    return list(ordered.values())


def _plain(path: Path) -> str:
    return path.name.split(".")[0].replace("-", "_")


def _unpacked(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _depends(path: Path) -> list[str]:
    for entry in _section(_unpacked(path), b".modinfo").split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == b"depends":
            return [name for name in value.decode().split(",") if name]
    return []


def _section(elf: bytes, wanted: bytes) -> bytes:
    """A section of a 64-bit little-endian ELF file; empty if it is not there."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)

    def header(index: int) -> tuple[int, int, int]:
        name, _, _, _, offset, length = struct.unpack_from("<IIQQQQ", elf, table + index * size)
        return name, offset, length

    _, names_offset, _ = header(names)
    for index in range(count):
        name, offset, length = header(index)
        start = names_offset + name
        if elf[start : elf.index(b"\0", start)] == wanted:
            return elf[offset : offset + length]
    return b""


# The initramfs.


def initramfs(
    agent: bytes,
    modules: list[Path],
    shell: bytes | None = None,
    vsock: list[Path] | None = None,
) -> bytes:
    """A cpio archive with the agent as /init, the modules, unpacked, and a shell that is static.

    /modules/order names those of every machine, /modules/vsock the others.

    Its size is one byte more than a multiple of 4096: SeaBIOS puts the ACPI tables of QEMU's
    microvm where the initrd ends, and one that ends just below a page border overwrites them.
    """
    every = [*modules, *(vsock or [])]
    names = [_plain(path) + ".ko" for path in every]
    common, further = names[: len(modules)], names[len(modules) :]
    entries = [
        _entry("dev", 0o040755),
        _entry("dev/console", 0o020600, device=(5, 1)),
        _entry("modules", 0o040755),
        _entry("modules/order", 0o100644, _listing(common)),
        _entry("modules/vsock", 0o100644, _listing(further)),
        *(
            _entry(f"modules/{n}", 0o100644, _unpacked(p))
            for n, p in zip(names, every, strict=True)
        ),
        *([] if shell is None else [_entry("shell", 0o100755, shell)]),
        _entry("init", 0o100755, agent),
        _entry("TRAILER!!!", 0),
    ]
    archive = b"".join(b"".join(entry) for entry in entries)
    return archive + bytes((1 - len(archive)) % 4096)


def _listing(names: list[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _entry(
    name: str, mode: int, data: bytes = b"", *, device: tuple[int, int] = (0, 0)
) -> Iterator[bytes]:
    """One member of a "newc" archive (early-userspace/buffer-format.rst of the kernel)."""
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (0, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    yield header
    yield bytes(-len(header) % 4)
    yield data
    yield bytes(-len(data) % 4)
