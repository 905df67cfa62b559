"""The memory-backed directory where plain files of encrypted snapshots are while they are needed.

It is a tmpfs of our own below the run directory, for root only, mounted when the first file is
needed and unmounted when nothing is in it. It outlives this process, as VMMs do that use its files,
and ends with the machine. `noswap` (Linux 6.4) keeps it out of swap; where the kernel does not know
it, swap must be off or encrypted, and the log says so.

Its layout: `images/<account>/<name>/<version>/`, `microvms/<id>/`, `builds/<any>/`. What is
half-made has a name that begins with a dot. The link `image` of a MicroVM tells which image's files
its VMM uses.
"""

import ctypes
import errno
import os
import tempfile
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from microvmd.messages.node import VersionKey
from microvmd.node.paths import remove

log = structlog.get_logger(__name__)

SOURCE = b"microvmd-plain"
MNT_DETACH = 2
RESERVE = 256 << 20
"""Bytes of memory that plain files must leave to the machine."""
MEMINFO = Path("/proc/meminfo")

_libc = ctypes.CDLL(None, use_errno=True)


class NoRoom(Exception):
    """The machine has not enough free memory for the plain files."""


@dataclass(frozen=True, slots=True)
class PlainDirectory:
    """`limit_bytes` is the most that all plain files together may take; None is half the memory."""

    path: Path
    limit_bytes: int | None = None

    def image(self, version: VersionKey) -> Path:
        return self.path / "images" / version.account / version.image_name / version.place

    def microvm(self, microvm_id: str) -> Path:
        return self.path / "microvms" / microvm_id

    @property
    def capacity(self) -> int:
        """Bytes that all plain files together may take."""
        return self.limit_bytes or _meminfo("MemTotal") // 2

    def mount(self) -> None:
        """Make it ready. Raises OSError when the kernel refuses."""
        if os.path.ismount(self.path):
            return
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"mode=0700,size={self.capacity}"
        try:
            _mount(self.path, options + ",noswap")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            log.warning("plain.may_swap", path=str(self.path), reason="the kernel knows no noswap")
            _mount(self.path, options)

    def check_room(self, wanted: int) -> None:
        """Raises NoRoom unless `wanted` bytes more fit into the machine's memory and the limit."""
        free = _meminfo("MemAvailable") - RESERVE
        if os.path.ismount(self.path):
            stat = os.statvfs(self.path)
            free = min(free, stat.f_bavail * stat.f_frsize)
        if wanted > free:
            raise NoRoom(
                f"its plain files need {_mib(wanted)} MiB of memory, and {_mib(max(free, 0))} MiB "
                "are free: end other MicroVMs, or raise encryption.memory_mib"
            )

    @property
    def builds(self) -> Path:
        return self.path / "builds"

    def half(self, whole: Path) -> Path:
        """A new directory for something that becomes `whole`; a sweep removes it."""
        self.mount()
        parent = self.path / whole.relative_to(self.path).parts[0]
        parent.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".new-", dir=parent))

    def drop(self, directory: Path) -> None:
        """Remove one directory of it, and the mount when that was the last."""
        remove(directory)
        for parent in directory.parents:
            if parent == self.path:
                break
            with suppress(OSError):
                parent.rmdir()
        self.unmount_empty()

    def unmount_empty(self) -> None:
        """Nothing happens while there is something in it."""
        if not os.path.ismount(self.path) or any(self.path.iterdir()):
            return
        # Detached: the mount namespaces of jails hold copies for as long as their VMMs live.
        if _libc.umount2(os.fsencode(self.path), MNT_DETACH) != 0:
            raise _failure(f"umount {self.path}")
        self.path.rmdir()

    def used(self, microvm_id: str) -> VersionKey | None:
        """Which image's plain files the VMM of a MicroVM uses."""
        try:
            target = os.readlink(self.microvm(microvm_id) / "image")
        except OSError:
            return None
        return VersionKey.at(*target.split("/")[-3:])

    def sweep(self, microvms: Set[str]) -> list[Path]:
        """Remove what no VMM of `microvms` uses; returns what was removed. Before anything runs."""
        if not os.path.ismount(self.path):
            return []
        used = {self.image(key) for name in microvms if (key := self.used(name)) is not None}
        doomed = list(self.path.glob("builds/*"))
        doomed += [path for path in self.path.glob("microvms/*") if path.name not in microvms]
        doomed += self.path.glob("images/.*")
        doomed += [path for path in self.path.glob("images/*/*/*") if path not in used]
        for path in doomed:
            self.drop(path)
        self.unmount_empty()
        return doomed


def _mount(path: Path, options: str) -> None:
    # No flags: RUN steps of builds execute from it, in namespaces of their own.
    if _libc.mount(SOURCE, os.fsencode(path), b"tmpfs", 0, options.encode()) != 0:
        raise _failure(f"mount a tmpfs at {path}")


def _failure(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def _meminfo(name: str) -> int:
    """Bytes."""
    line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def _mib(count: int) -> int:
    return count >> 20
