"""Hold up whoever opens a file.

Firecracker has no moment between the mapping of guest memory and the restore of its devices, which
already reads that memory. The open of a disk lies between them, though, and a lease (fcntl(2),
F_SETLEASE) lets the kernel stop it there until the holder has done what is to be done.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_FILE = Path("/proc/sys/fs/lease-break-time")
"""Seconds after which the kernel takes a lease away from a holder that does not react; 0: never."""


class LeaseLost(Exception):
    """The kernel let the file be opened before the holder was ready."""


class Lease:
    """Made by `held_up`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._begun = time.monotonic()

    def lift(self) -> None:
        """Let whoever waits go on. Raises LeaseLost where the kernel may have done so before."""
        limit = int(LIMIT_FILE.read_text())
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        if limit and time.monotonic() - self._begun >= limit:
            raise LeaseLost(f"it took more than {limit} s ({LIMIT_FILE})")


@contextmanager
def held_up(path: Path) -> Iterator[Lease]:
    """Nobody else has the file open; whoever opens it within the context waits.

    Raises OSError where somebody has it open, or the file system knows no leases.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        # No signal when somebody opens it: unhandled it would end us.
        fcntl.fcntl(fd, fcntl.F_SETOWN, 0)
        yield Lease(fd)
    finally:
        os.close(fd)
