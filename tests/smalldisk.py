"""A file system of a few hundred MiB on a loop device, which a test fills up and frees again."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STEPS = tuple(1 << shift for shift in (26, 20, 16, 12))
"""Bytes that are taken at a time, so that in the end not one block is left."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """An ext4 file system without blocks reserved for root."""

    mount: Path

    @property
    def _filler(self) -> Path:
        return self.mount / "filler"

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.mount)
        return found.f_bfree * found.f_frsize

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Whoever writes here meanwhile gets ENOSPC, but for blocks that others free."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._take_all(descriptor)
            yield
        finally:
            os.close(descriptor)
            self._filler.unlink()

    def _take_all(self, descriptor: int) -> None:
        size = 0
        for step in STEPS:
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(descriptor, size, step)
                    size += step


@contextlib.contextmanager
def small_disk(mount: Path, mib: int) -> Iterator[SmallDisk]:
    """Mounted on a directory that is made; the image file beside it and both go at the end."""
    image = mount.with_name(f"{mount.name}.ext4")
    with image.open("xb") as file:
        file.truncate(mib << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        mount.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
        try:
            yield SmallDisk(mount)
        finally:
            subprocess.run(["umount", str(mount)], check=True)
            mount.rmdir()
    finally:
        image.unlink()
