"""Ends a service from outside, and what outlives it on purpose: HAProxy and the local AWS server.

Running MicroVMs stay: the next ``microvmd serve`` of this root takes them over. Whoever holds the
lock of the root is the service; the kernel tells who that is.
"""

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from microvmd.edge.config import EdgeSettings
from microvmd.edge.haproxy import HAProxy
from microvmd.service.failure import Failure
from microvmd.service.local_aws import recorded
from microvmd.vmm.process import Process, ProcessGone, ProcessIdentity

LIMIT_S = 60.0
LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True)
class Ended:
    """Pids of what was ended; None: it did not run."""

    service: int | None
    haproxy: int | None
    local_aws: int | None


async def end_service(root: Path, run: Path, edge: EdgeSettings) -> Ended:
    """End all of a root and wait until it is gone. Raises Failure."""
    try:
        return Ended(
            await _end(holder_of(root / "lock")),
            await _end_haproxy(edge),
            await _end_local_aws(run / "aws"),
        )
    except PermissionError as error:
        raise Failure(
            "the service runs as another user", "run this as root, or as that user"
        ) from error


def holder_of(lock: Path) -> int | None:
    """The process that holds a lock (flock); None: nobody. /proc/locks names files by device and
    inode (Documentation/filesystems/proc.rst); the device is not the one that stat tells on btrfs,
    so the process must have the file open. Raises PermissionError for another user's process."""
    try:
        found = lock.stat()
    except FileNotFoundError:
        return None
    inode = str(found.st_ino)
    for line in LOCKS.read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
            pid = int(words[4])
            if _has_open(pid, found):
                return pid
    return None


def _has_open(pid: int, file: os.stat_result) -> bool:
    with suppress(FileNotFoundError):  # it has ended
        for name in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                if os.path.samestat(name.stat(), file):
                    return True
    return False


async def _end(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        process = Process.adopt(ProcessIdentity.of(pid))
    except ProcessGone:
        return None
    return await _gone(process)


async def _gone(process: Process) -> int:
    """SIGKILL would leave its children behind: one that does not end is told, not killed."""
    process.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(LIMIT_S):
            await process.wait()
    except TimeoutError:
        raise Failure(
            f"process {process.pid} has not ended within {LIMIT_S:.0f} s",
            f"see what it does, then: kill -9 {process.pid}",
        ) from None
    return process.pid


async def _end_haproxy(edge: EdgeSettings) -> int | None:
    haproxy = HAProxy(edge)
    if not await haproxy.adopt() or haproxy.process is None:
        return None
    pid = haproxy.process.pid
    await haproxy.stop()
    return pid


async def _end_local_aws(run: Path) -> int | None:
    try:
        process = Process.adopt(recorded(run))
    except ProcessGone:
        return None
    return await _gone(process)
