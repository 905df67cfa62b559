"""Digests of files that were read in full already, so that a start need not read them again.

A file is known by device, inode, size, mtime and ctime, and only for this boot of the machine: the
kernel sets ctime at every change and nobody can set it back, but after a boot the disk may be
another, or have been changed by whoever had it meanwhile. What was written down is for root only
(0600), and never believed against a manifest: a digest that differs is taken again from the file.

fs-verity would do the same in the kernel, page by page, but a bad page is then found by the VMM in
the middle of its run; here it is found before there is one.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

import structlog

log = structlog.get_logger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOST = 4096
"""Files that are remembered; the one that was asked for longest ago is forgotten first."""
TICK_NS = 10_000_000
"""The kernel stamps files with a clock that moves once in a tick, of 10 ms at most."""
TICKS = 5


@dataclass(frozen=True, slots=True)
class FileState:
    """What a change of a file cannot leave as it is."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path | int) -> Self:
        stat = os.stat(path)
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class KnownFiles:
    """Safe to use from several threads. `record` is where digests outlive this process."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._boot = BOOT_ID.read_text().strip()
        self._digests = self._read()

    def find(self, path: Path) -> str | None:
        """The digest of a file that nothing has changed since it was taken. Raises OSError."""
        state = FileState.of(path)
        with self._lock:
            digest = self._digests.pop(state, None)
            if digest is not None:
                self._digests[state] = digest
        return digest

    def take(self, path: Path, digest: Callable[[Path], str]) -> str:
        """Read a file for its digest and remember it. Blocks. Raises OSError."""
        before = _settled(path)
        found = digest(path)
        if before is not None and before == FileState.of(path):
            self._remember(before, found)
        return found

    def told(self, path: Path, digest: str) -> None:
        """Remember what the writer of a file has computed while it wrote. Blocks."""
        state = _settled(path)
        if state is not None:
            self._remember(state, digest)

    def save(self) -> None:
        """Write all down for the next run of this process; losing it costs time only. Blocks."""
        with self._lock:
            files = [[*astuple(state), digest] for state, digest in self._digests.items()]
            fresh = self._record.with_suffix(".new")
            try:
                fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(fd, "w") as file:
                    json.dump({"boot": self._boot, "files": files}, file)
                fresh.rename(self._record)
            except OSError as error:
                log.warning("known_files.not_saved", path=str(self._record), error=str(error))

    def _remember(self, state: FileState, digest: str) -> None:
        with self._lock:
            self._digests.pop(state, None)
            self._digests[state] = digest
            while len(self._digests) > MOST:
                del self._digests[next(iter(self._digests))]

    def _read(self) -> dict[FileState, str]:
        try:
            fields: dict[str, Any] = json.loads(self._record.read_text())
            if fields["boot"] != self._boot:
                return {}
            return {
                FileState(*map(int, numbers)): str(digest) for *numbers, digest in fields["files"]
            }
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}


def _settled(path: Path) -> FileState | None:
    """The state of a file once a later change must give it another ctime.

    A change in the tick of the last one would not show; so wait, after a change just now only,
    until that tick is over. None when the clock does not get there: it was set back.
    """
    state = FileState.of(path)
    for _ in range(TICKS):
        if time.time_ns() > state.ctime_ns + TICK_NS:
            return state
        time.sleep(TICK_NS / 1e9)
        state = FileState.of(path)
    return None
