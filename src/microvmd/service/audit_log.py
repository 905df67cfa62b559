"""The record of calls on disk: one JSON line for each, in a file for each day (UTC), appended only.

Lines go through a thread of their own, so that no answer waits for the disk; it writes whatever has
gathered at once. What is written can be followed. A full disk loses lines and says so in the
service's log: calls go on.
"""

import asyncio
import json
import os
import queue
import re
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from microvmd.api.audit import LAMBDA, SOURCE, Call, record
from microvmd.control.seldom import Seldom
from microvmd.model.errors import Throttled
from microvmd.model.rate import Bucket, Rate

MIB = 1 << 20
DAY_S = 86_400
SEGMENTS = 16
"""Into how many files the space is divided at least: the oldest is what is given up at once."""
BACKLOG = 20_000
"""Lines that may wait for the disk."""
UNPROVEN_PER_S = 20.0
"""Refused calls of nobody that are recorded each second; a flood of them displaces nothing else."""
PAGE_BYTES = 4 * MIB
PAGE_LINES = 200
BLOCK = 256 * 1024
LAST_BYTES = 64 * MIB
SWEEP_INTERVAL_S = 3600.0
PLACE = re.compile(r"(\d{4}-\d{2}-\d{2}\.\d{4}):(\d{1,15})")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AuditLimits:
    """What is kept. ``reads``: calls that change nothing too; ``days`` and ``size`` (bytes)."""

    reads: bool
    days: float
    size: int


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Behind a line: the stem of a file and the bytes of it that were read."""

    stem: str = ""
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.stem}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """None for what no place looks like."""
        found = PLACE.fullmatch(text)
        return None if found is None else cls(found[1], int(found[2]))


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which calls: None is any. ``since`` is in seconds, ``user`` a name, an ARN or a key."""

    account: str | None = None
    name: str | None = None
    user: str | None = None
    since: float | None = None
    failed: bool = False
    error: str | None = None
    writes: bool = False

    def matches(self, line: bytes) -> dict[str, Any] | None:
        """The record of a line, when it is wanted. Most lines are judged without reading them."""
        if self.account is not None and f'"{self.account}"'.encode() not in line:
            return None
        if self.name is not None and json.dumps(self.name).encode() not in line:
            return None
        found: dict[str, Any] = json.loads(line)
        return found if self._wants(found) else None

    def _wants(self, found: Mapping[str, Any]) -> bool:
        return (
            self.account in (None, found["recipientAccountId"])
            and self.name in (None, found["eventName"])
            and (self.since is None or _moment(found["eventTime"]) >= self.since)
            and (self.error in (None, found.get("errorCode")))
            and not (self.failed and "errorMessage" not in found)
            and not (self.writes and found["readOnly"])
            and (self.user is None or self.user in _names(found["userIdentity"]))
        )


class AuditLog:
    """Writes and reads the record. ``clock`` tells seconds since the epoch."""

    def __init__(
        self, directory: Path, limits: AuditLimits, clock: Callable[[], float] = time.time
    ) -> None:
        self._files = _Files(directory, limits, clock)
        self._limits = limits
        self._clock = clock
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unproven = Bucket(Rate(UNPROVEN_PER_S), clock())
        self._lost = 0
        self._written = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, call: Call) -> None:
        """Record a call; returns at once."""
        if call.read_only and call.error is None and not self._limits.reads:
            return
        if call.data and call.source not in (LAMBDA, SOURCE) and call.error is None:
            return  # as CloudTrail: traffic of objects and logs is no management
        now = self._clock()
        if self._waiting.qsize() >= BACKLOG or not self._has_room(call, now):
            self._lost += 1
            return
        made = record(call, datetime.fromtimestamp(now, UTC))
        if self._lost:
            more = made.setdefault("additionalEventData", {})
            more["callsNotRecorded"] = self._lost
            self._lost = 0
        self._waiting.put(json.dumps(made, separators=(",", ":")).encode() + b"\n")

    def _has_room(self, call: Call, now: float) -> bool:
        if call.context is not None:
            return True
        try:
            return self._unproven.ask(now) is None
        except Throttled:
            return False

    def write_for_ever(self) -> None:
        """In a thread of its own, until ``end``."""
        while (line := self._waiting.get()) is not None:
            lines, ending = [line], False
            while not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    ending = True
                    break
                lines.append(following)
            self._files.append(lines)
            self._loop.call_soon_threadsafe(self._tell)
            if ending:
                return

    def end(self) -> None:
        """What waits is still written."""
        self._waiting.put(None)

    async def read(
        self, query: AuditQuery, *, after: Place | None = None, follow: bool = False
    ) -> AsyncGenerator[tuple[Place, dict[str, Any]], None]:
        """Oldest first, each with the place behind it; with ``follow`` for ever."""
        place = after or self._files.first(query.since)
        while True:
            written = self._written
            found, place, more = await asyncio.to_thread(self._files.page, query, place)
            for behind, one in found:
                yield behind, one
            if not more:
                if not follow:
                    return
                await written.wait()

    async def last(self, query: AuditQuery, count: int) -> list[tuple[Place, dict[str, Any]]]:
        """The newest ones, oldest first; looks no further back than `LAST_BYTES`."""
        return await asyncio.to_thread(self._files.last, query, count)

    def _tell(self) -> None:
        self._written.set()
        self._written = asyncio.Event()


class _Files:
    """``<day>.<number>.jsonl`` in a directory of the service's own. Only one thread appends."""

    def __init__(self, directory: Path, limits: AuditLimits, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._limits = limits
        self._segment = max(MIB, limits.size // SEGMENTS)
        self._clock = clock
        self._swept = float("-inf")
        self._losing, self._lost = Seldom(), 0
        directory.mkdir(mode=0o700, exist_ok=True)

    def append(self, lines: list[bytes]) -> None:
        try:
            self._sweep()
            self._write(self._current(), b"".join(lines))
        except OSError as error:
            self._lost += len(lines)
            if self._losing.due():
                log.error("audit.lost", calls=self._lost, error=str(error))
                self._lost = 0

    def _write(self, path: Path, data: bytes) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data  # behind a line that a full disk or a crash has torn
            _write_all(fd, data)
        finally:
            os.close(fd)

    def first(self, since: float | None) -> Place:
        """Before all that can be of interest."""
        return Place() if since is None else Place(f"{_day(max(0.0, since))}.0000")

    def page(
        self, query: AuditQuery, place: Place
    ) -> tuple[list[tuple[Place, dict[str, Any]]], Place, bool]:
        """What is wanted of the next few megabytes, the place behind them, and whether there is
        more."""
        for path in self._paths():
            if path.stem < place.stem:
                continue
            offset = place.offset if path.stem == place.stem else 0
            found, behind = self._page_of(path, offset, query)
            if behind > offset:
                return found, Place(path.stem, behind), True
            place = Place(path.stem, offset)
        return [], place, False

    def last(self, query: AuditQuery, count: int) -> list[tuple[Place, dict[str, Any]]]:
        found: list[tuple[Place, dict[str, Any]]] = []
        room = LAST_BYTES
        for path in reversed(self._paths()):
            with suppress(FileNotFoundError):
                for behind, line in _backwards(path, min(room, path.stat().st_size)):
                    room -= len(line)
                    one = _matching(query, line)
                    if one is not None:
                        found.append((Place(path.stem, behind), one))
                    if len(found) == count:
                        return found[::-1]
            if room <= 0:
                break
        return found[::-1]

    def _page_of(
        self, path: Path, offset: int, query: AuditQuery
    ) -> tuple[list[tuple[Place, dict[str, Any]]], int]:
        found: list[tuple[Place, dict[str, Any]]] = []
        begin = offset
        try:
            with path.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # of a write in progress
                    offset += len(line)
                    one = _matching(query, line)
                    if one is not None:
                        found.append((Place(path.stem, offset), one))
                    if len(found) == PAGE_LINES or offset - begin > PAGE_BYTES:
                        break
        except FileNotFoundError:
            pass  # forgotten meanwhile
        return found, offset

    def _current(self) -> Path:
        day = _day(self._clock())
        paths = self._paths()
        if not paths or paths[-1].stem < day:
            return self._directory / f"{day}.0000.jsonl"
        last = paths[-1]  # of a later day where the clock was set back: nothing goes before a line
        if last.stat().st_size < self._segment:
            return last
        self._swept = float("-inf")
        of_day, _, number = last.stem.partition(".")
        return self._directory / f"{of_day}.{int(number) + 1:04}.jsonl"

    def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept < SWEEP_INTERVAL_S:
            return
        self._swept = now
        oldest, room = _day(now - self._limits.days * DAY_S), self._limits.size - self._segment
        for path in reversed(self._paths()):
            room -= path.stat().st_size
            if path.stem[: len(oldest)] < oldest or room < 0:
                path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("????-??-??.????.jsonl"))


def _backwards(path: Path, most: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines of the last bytes of a file, the last one first, each with its end."""
    with path.open("rb") as file:
        begin = file.seek(0, os.SEEK_END)
        least, rest = max(0, begin - most), b""
        while begin > least:
            end, begin = begin, max(least, begin - BLOCK)
            file.seek(begin)
            data = file.read(end - begin) + rest
            # What is before the first line break begins further back, but in the first block.
            head, found, lines = data.partition(b"\n") if begin else (b"", b"", data)
            if begin and not found:
                rest = data
                continue
            place = begin + len(data)
            for line in reversed(lines.splitlines(keepends=True)):
                if line.endswith(b"\n"):
                    yield place, line
                place -= len(line)
            rest = head + found


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _matching(query: AuditQuery, line: bytes) -> dict[str, Any] | None:
    try:
        return query.matches(line)
    except (ValueError, KeyError, TypeError):
        return None  # torn by a full disk or a crash


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _names(identity: Mapping[str, Any]) -> Iterator[str]:
    for name in ("userName", "arn", "accessKeyId", "principalId"):
        if isinstance(identity.get(name), str):
            yield identity[name]
    yield str(identity.get("arn", "")).rpartition("/")[2].rpartition(":")[2]


@asynccontextmanager
async def audit_log(directory: Path, limits: AuditLimits) -> AsyncIterator[AuditLog]:
    """The record below a directory, while its writer runs."""
    made = AuditLog(directory, limits)
    writer = threading.Thread(target=made.write_for_ever, name="audit", daemon=True)
    writer.start()
    try:
        yield made
    finally:
        made.end()
        await asyncio.to_thread(writer.join)
