"""The root disk of the KVM host: the Debian of this machine with what `./run setup` installs.

Made once and kept in the cache by the digest of all that goes into it. The checkout is not in it,
so that a change of code makes no new disk: it is sent to the host when that runs.
"""

import asyncio
import compileall
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from microvmd.build import toolchain
from microvmd.build.debian import host_mirrors, sources_for
from microvmd.build.toolchain import Toolchain
from microvmd.node import kernel
from tests.checkout import ASSETS, CHECKOUT

CACHE = Path(os.environ.get("MICROVMD_CACHE", "/var/cache/microvmd")) / "kvm-host"
PACKAGES = CHECKOUT / "scripts" / "packages.sh"
LOCK = CHECKOUT / "requirements.lock"
LIBRARY = Path("usr/lib/kvm-host")
PYTHON = Path("usr/lib/kvm-host/python")
INSIDE = "/checkout"
"""Where the checkout is within the host."""
DISK_GIB = 6
KEPT_DAYS = 7
"""What nobody has used for so long goes when something new is made."""

# What builds and fetches; its results are sent instead.
NOT_NEEDED = {"rustc", "cargo", "librust-libc-dev", "mmdebstrap", "git", "python3-venv", "zip"}
ALSO_NEEDED = ("netbase", "libzstd1")
# Python packages that no test in there imports, 430 MB of 660.
LEFT_OUT = ("awscli*", "playwright*", "mypy*", "*__mypyc*", "ruff*", "types_*", "networkx*",
            "sympy*", "cfnlint*", "grimp*", "ast_serialize*", "*.pth", "bin")  # fmt: skip
PIN = """Package: qemu-* seabios ipxe-qemu
Pin: release n=bookworm-backports
Pin-Priority: 900
"""
BOOT_MODULES = ("virtio_blk",)
OURS = ("root.py", "inside.sh", "inside.py", "init.c")


@dataclass(frozen=True, slots=True)
class HostFiles:
    """What the machine of the host starts from; none of it is ever written."""

    digest: str
    disk: Path
    kernel: Path
    initrd: Path
    builder: Toolchain
    """A disk of its own beside the root: where image builds in the host find their tools."""


def guest_kernel() -> Path:
    """The directory of the kernel that `./run setup` has fetched."""
    found = sorted(path.parent for path in (ASSETS / "kernel").glob("[0-9]*/vmlinuz"))
    assert found, f"no kernel in {ASSETS}: ./run setup fetches it"
    return found[-1]


def packages() -> list[str]:
    """What `./run setup` installs, without what builds."""
    script = f'source "{PACKAGES}" && printf "%s\\n" "${{packages[@]}}"'
    listed = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    return sorted({*listed.stdout.split(), *ALSO_NEEDED} - NOT_NEEDED)


def make() -> HostFiles:
    """The files of the host, from the cache or made now, which takes a minute or two."""
    digest = _digest()
    directory = CACHE / digest
    with locked(CACHE / "making.lock"):
        if not directory.is_dir():
            _sweep()
            _make(directory)
    os.utime(directory)
    kernel_and_initrd = directory / "vmlinuz", directory / "initrd"
    return HostFiles(digest, directory / "root.raw", *kernel_and_initrd, builder())


def builder() -> Toolchain:
    """The machine's own, which its image builds have as well."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return asyncio.run(toolchain.prepare(CACHE.parent, print))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among all test runs of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest() -> str:
    total = hashlib.sha256()
    for text in (*packages(), guest_kernel().name, _codename(), str(DISK_GIB)):
        total.update(text.encode() + b"\0")
    for path in (LOCK, *(Path(__file__).with_name(name) for name in OURS)):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"]


def _sweep() -> None:
    limit = time.time() - KEPT_DAYS * 86400
    for path in CACHE.iterdir():
        if path.stat().st_mtime >= limit or path.suffix == ".lock":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make(directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="making-", dir=CACHE) as scratch:
        half, tree = Path(scratch) / "half", Path(scratch) / "root"
        half.mkdir()
        tree.mkdir()
        subprocess.run(["tar", "-xpf", _debian(Path(scratch)), "-C", tree], check=True)
        _add_python(tree)
        _add_ours(tree)
        _add_kernel(tree, half)
        _disk(tree, half / "root.raw")
        half.rename(directory)


def _debian(scratch: Path) -> Path:
    """A tarball of Debian itself, which takes most of the time; kept apart from what is ours."""
    suite = _codename()
    text = "\n".join([suite, *packages(), PIN])
    ready = CACHE / f"debian-{hashlib.sha256(text.encode()).hexdigest()[:16]}.tar"
    if ready.exists():
        os.utime(ready)
        return ready
    half = scratch / "debian.tar"
    mirrors = host_mirrors()
    sources = sources_for(suite, mirrors)
    hooks = []
    if suite == "bookworm":  # whose own QEMU is too old: as `./run setup` does
        own = [mirror for mirror in mirrors if mirror.pocket == ""]
        sources += "\n" + sources_for(f"{suite}-backports", own)
        (scratch / "pin").write_text(PIN)
        hooks = ['--setup-hook=mkdir -p "$1/etc/apt/preferences.d"',
                 f'--setup-hook=cp {scratch}/pin "$1/etc/apt/preferences.d/kvm-host"']  # fmt: skip
    (scratch / "apt.sources").write_text(sources)
    excluded = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(packages())}"]
    argv += ["--aptopt=APT::Install-Recommends false", *hooks]
    argv += [f"--dpkgopt=path-exclude=/{path}/*" for path in excluded]
    argv += [suite, os.fspath(half), os.fspath(scratch / "apt.sources")]
    subprocess.run(argv, check=True)
    half.rename(ready)
    return ready


def _add_python(tree: Path) -> None:
    """Our Python packages, compiled: an emulated processor would take minutes for that."""
    target = tree / PYTHON
    ignored = shutil.ignore_patterns(*LEFT_OUT, "__pycache__", "tests")
    shutil.copytree(sysconfig.get_path("purelib"), target, ignore=ignored, symlinks=True)
    compileall.compile_dir(
        target,
        quiet=2,
        workers=0,
        stripdir=os.fspath(tree),
        prependdir="/",
        invalidation_mode=None,
    )
    # Also an isolated Python (`-I`), as the builds start one, reads this.
    places = f"/{PYTHON}\n{INSIDE}/src\n"
    (tree / "usr/lib/python3/dist-packages/microvmd.pth").write_text(places)
    program = tree / "usr/bin/microvmd"
    program.write_text("#!/usr/bin/python3\nfrom microvmd.cli.main import app\n\napp()\n")
    program.chmod(0o755)


def _add_ours(tree: Path) -> None:
    library = tree / LIBRARY
    for name, mode in (("inside.sh", 0o755), ("inside.py", 0o644)):
        target = library / name
        shutil.copyfile(Path(__file__).with_name(name), target)
        target.chmod(mode)
    subprocess.run(
        ["chroot", tree, "useradd", "--system", "--user-group", "--no-create-home",
         "--shell", "/usr/sbin/nologin", "microvmd"],
        check=True,
    )  # fmt: skip
    (tree / INSIDE.lstrip("/")).mkdir()
    (tree / "etc/hosts").write_text("127.0.0.1 localhost kvm-host\n::1 localhost\n")
    (tree / "etc/hostname").write_text("kvm-host\n")


def _add_kernel(tree: Path, target: Path) -> None:
    source = guest_kernel()
    modules = tree / "lib/modules" / source.name
    modules.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source / "modules", modules)
    kernels = tree / "usr/lib/kvm-host/kernel" / source.name
    kernels.mkdir(parents=True)
    for name in ("vmlinuz", "config"):
        shutil.copyfile(source / name, kernels / name)
    (kernels / "modules").symlink_to(f"/lib/modules/{source.name}")
    subprocess.run(["depmod", "-b", tree, source.name], check=True)
    files = [
        Path(line.split()[1]) for name in BOOT_MODULES for line in _insmods(tree, source.name, name)
    ]
    init = target / "init"
    source_of_init = Path(__file__).with_name("init.c")
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", init, source_of_init], check=True)
    (target / "initrd").write_bytes(kernel.initramfs(init.read_bytes(), files))
    (target / "vmlinuz").write_bytes(kernel.extract_vmlinux((source / "vmlinuz").read_bytes()))


def _insmods(tree: Path, release: str, module: str) -> list[str]:
    argv = ["modprobe", "-d", os.fspath(tree), "-S", release, "--show-depends", module]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True)
    return [line for line in shown.stdout.splitlines() if line.startswith("insmod ")]


def _disk(tree: Path, disk: Path) -> None:
    argv = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1",
            "-m", "0", "-d", os.fspath(tree), os.fspath(disk), f"{DISK_GIB}G"]  # fmt: skip
    subprocess.run(argv, check=True)
    disk.chmod(0o444)
