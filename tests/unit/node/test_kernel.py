"""The guest kernel: unpacking, the order of modules, the initramfs, preparing it twice at once."""

import lzma
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.kernel import AGENT, SHELL, KernelError, extract_vmlinux, initramfs, prepare

VMLINUX = b"\x7fELF" + b"kernel" * 1000


def bzimage(payload: bytes) -> bytes:
    """A boot sector, one setup sector, and the payload behind a head of 32 bytes."""
    image = bytearray(1024)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 32, len(payload))
    return bytes(image) + bytes(32) + payload


def module(depends: str) -> bytes:
    """A 64-bit ELF file with a .modinfo section."""
    names = b"\0.modinfo\0.shstrtab\0"
    modinfo = b"license=GPL\0depends=" + depends.encode() + b"\0"
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    table = 64 + len(names) + len(modinfo)
    struct.pack_into("<Q", header, 0x28, table)
    struct.pack_into("<HHH", header, 0x3A, 64, 3, 2)

    def section(name: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQ", name, 0, 0, 0, offset, size) + bytes(24)

    names_at, modinfo_at = 64, 64 + len(names)
    sections = section(0, 0, 0) + section(1, modinfo_at, len(modinfo))
    sections += section(names.index(b".shstrtab"), names_at, len(names))
    return bytes(header) + names + modinfo + sections


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    directory = tmp_path / "assets"
    release = directory / "kernel" / "6.12.9+deb12-cloud-amd64"
    (release / "modules" / "kernel" / "drivers").mkdir(parents=True)
    (release / "vmlinuz").write_bytes(bzimage(lzma.compress(VMLINUX)))
    (release / "modules" / "modules.builtin").write_text("kernel/drivers/virtio_ring.ko\n")
    for name, depends in {
        "virtio_mmio": "virtio_ring",
        "virtio_blk": "",
        "virtio_net": "net_failover,virtio_ring",
        "net_failover": "failover",
        "failover": "",
        "virtio-rng": "",
        "erofs": "",
        "libcrc32c": "",
        "overlay": "",
        "tcp_diag": "inet_diag",
        "inet_diag": "",
        "vmw_vsock_virtio_transport": "vmw_vsock_virtio_transport_common,vsock",
        "vmw_vsock_virtio_transport_common": "vsock",
        "vsock": "",
    }.items():
        path = release / "modules" / "kernel" / "drivers" / f"{name}.ko.xz"
        path.write_bytes(lzma.compress(module(depends)))
    (directory / AGENT).write_bytes(b"the agent")
    return directory


def members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> (mode, content) of a newc archive."""
    found: dict[str, tuple[int, bytes]] = {}
    position = 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = [int(archive[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name_at = position + 110
        name = archive[name_at : name_at + name_size - 1].decode()
        data_at = (name_at + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[data_at : data_at + size])
        position = (data_at + size + 3) & ~3


def test_prepare_makes_kernel_and_initramfs(assets: Path, tmp_path: Path) -> None:
    kernel = prepare(assets, tmp_path / "cache")
    assert kernel.release == "6.12.9+deb12-cloud-amd64"
    assert kernel.vmlinux.read_bytes() == VMLINUX
    found = members(kernel.initrd.read_bytes())
    assert found["init"] == (0o100755, b"the agent")
    assert found["dev/console"][0] == 0o020600
    order = found["modules/order"][1].decode().split()
    assert order == [
        "virtio_mmio.ko",
        "virtio_blk.ko",
        "failover.ko",
        "net_failover.ko",
        "virtio_net.ko",
        "virtio_rng.ko",
        "libcrc32c.ko",
        "erofs.ko",
        "overlay.ko",
        "inet_diag.ko",
        "tcp_diag.ko",
    ]
    assert found["modules/vsock"][1].decode().split() == [
        "vsock.ko",
        "vmw_vsock_virtio_transport_common.ko",
        "vmw_vsock_virtio_transport.ko",
    ]
    assert found["modules/erofs.ko"][1] == module("")
    assert "shell" not in found
    (assets / SHELL).write_bytes(b"a shell")
    with_shell = prepare(assets, tmp_path / "cache")
    assert with_shell.digest != kernel.digest
    assert members(with_shell.initrd.read_bytes())["shell"] == (0o100755, b"a shell")


def test_the_newest_kernel_is_taken_and_the_agent_counts(assets: Path, tmp_path: Path) -> None:
    first = prepare(assets, tmp_path / "cache")
    older = assets / "kernel" / "6.12.9+deb12-cloud-amd64"
    older.rename(older.with_name("6.12.10+deb12-cloud-amd64"))
    assert prepare(assets, tmp_path / "cache").release.startswith("6.12.10")
    (assets / AGENT).write_bytes(b"another agent")
    second = prepare(assets, tmp_path / "cache")
    assert first.digest != second.digest
    assert second.initrd.parent.parent == tmp_path / "cache" / "kernel"


def test_two_at_once_leave_one_result(assets: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: prepare(assets, cache), range(4)))
    assert len(set(made)) == 1
    assert [path.name for path in (cache / "kernel").iterdir()] == [made[0].digest]


@given(st.binary(max_size=5000))
def test_the_size_of_an_initramfs_spares_the_acpi_tables(agent: bytes) -> None:
    archive = initramfs(agent, [])
    assert len(archive) % 4096 == 1
    assert members(archive)["init"][1] == agent


@pytest.mark.parametrize(
    "image",
    [b"", bytes(1000), bzimage(b"gzip or so"), bzimage(lzma.compress(b"no kernel"))],
)
def test_what_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(KernelError):
        extract_vmlinux(image)


def test_a_broken_zstd_payload_is_refused() -> None:
    payload = b"\x28\xb5\x2f\xfd" + bytes(20) + struct.pack("<I", 100)
    with pytest.raises(KernelError, match="does not unpack"):
        extract_vmlinux(bzimage(payload))


def test_missing_parts_are_named(assets: Path, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="fetch-kernel"):
        prepare(tmp_path / "nothing", tmp_path)
    next((assets / "kernel").rglob("erofs.ko.xz")).unlink()
    with pytest.raises(KernelError, match="no module erofs"):
        prepare(assets, tmp_path)
    (assets / AGENT).unlink()
    with pytest.raises(KernelError, match="build"):
        prepare(assets, tmp_path)
