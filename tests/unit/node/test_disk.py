"""Overlays that QEMU reads, copies for others, and sparse disks that take little."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.disk import (
    CLUSTER,
    LARGEST,
    MAGIC,
    clone_drive,
    create_clone,
    create_disk,
    create_overlay,
    overlay_header,
)
from microvmd.node.sparse import digest
from microvmd.vmm.machine import DiskFormat
from microvmd.vmm.process import run

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img")


@needs_qemu
@pytest.mark.parametrize("gib", [1, 8, 1025])
def test_qemu_reads_an_overlay(tmp_path: Path, gib: int) -> None:
    backing, overlay = tmp_path / "disk.raw", tmp_path / "overlay.qcow2"
    backing.touch()
    os.truncate(backing, gib << 30)
    create_overlay(overlay, backing)
    shown = subprocess.run(
        ["qemu-img", "info", overlay], capture_output=True, text=True, check=True
    ).stdout
    assert f"virtual size: {gib} GiB" in shown or f"({gib << 30} bytes)" in shown
    assert f"backing file: {backing}" in shown
    subprocess.run(["qemu-img", "check", "-q", overlay], check=True)
    assert overlay.stat().st_blocks * 512 <= 16384
    assert overlay.stat().st_mode & 0o077 == 0


def test_an_overlay_is_never_overwritten(tmp_path: Path) -> None:
    backing = tmp_path / "disk.raw"
    backing.touch()
    os.truncate(backing, 1 << 30)
    create_overlay(tmp_path / "overlay.qcow2", backing)
    with pytest.raises(FileExistsError):
        create_overlay(tmp_path / "overlay.qcow2", backing)


@given(st.binary(min_size=1, max_size=1023), st.integers(1, LARGEST // 512))
def test_the_header_fits_its_cluster(backing: bytes, sectors: int) -> None:
    header = overlay_header(backing, sectors * 512)
    assert len(header) <= CLUSTER
    assert header.endswith(backing)


@pytest.mark.parametrize(("backing", "size"), [(b"", 512), (b"x" * 1024, 512), (b"x", 0)])
def test_impossible_overlays_are_refused(backing: bytes, size: int) -> None:
    with pytest.raises(ValueError, match=r"overlay|too long"):
        overlay_header(backing, size)
    with pytest.raises(ValueError, match="overlay"):
        overlay_header(b"x", LARGEST + 512)


@pytest.mark.anyio
@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="needs mkfs.ext4")
async def test_a_disk_is_sparse_and_sound(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    await create_disk(disk, 8 << 30)
    assert disk.stat().st_size == 8 << 30
    assert disk.stat().st_blocks * 512 < 32 << 20
    await run(["e2fsck", "-fn", os.fspath(disk)], timeout=60)


@pytest.mark.parametrize("place", ["/dev/shm", ""], ids=["in memory", "beside it"])
def test_a_copy_is_equal_and_as_sparse_as_the_image(tmp_path: Path, place: str) -> None:
    with tempfile.TemporaryDirectory(dir=place or tmp_path) as directory:
        _copy_and_compare(tmp_path / "disk.raw", Path(directory) / "copy.raw")


def _copy_and_compare(image: Path, copy: Path) -> None:
    with image.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(5 << 20)
        file.write(b"in the middle" * 1000)
        file.seek((1 << 30) - 4)
        file.write(b"last")
    image.chmod(0o444)
    create_clone(DiskFormat.COPY, copy, image)
    status = copy.stat()
    assert (status.st_size, status.st_mode & 0o777) == (1 << 30, 0o600)
    assert status.st_blocks * 512 < 1 << 20
    assert digest(copy) == digest(image)
    with copy.open("r+b") as file:
        file.write(b"own")
    assert digest(copy) != digest(image)


def test_what_a_clone_has_of_the_image_follows_from_the_format(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    own = tmp_path / "own"
    create_clone(DiskFormat.OVERLAY, own, image)
    assert own.read_bytes().startswith(MAGIC)
    assert clone_drive(DiskFormat.OVERLAY, own, image).backing == image
    assert clone_drive(DiskFormat.COPY, own, image).backing is None
