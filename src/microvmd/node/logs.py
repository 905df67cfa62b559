"""The local log store: what applications and builds print, by log group and stream.

Appending costs the event loop nothing but memory: one task writes what has gathered, all streams in
turn, in a thread. A stream may have so much waiting and no more; whoever appends faster than the
disk takes waits, and nobody else does. Followers are woken by the writer. A disk that is full loses
lines, says so in the log, and stops nothing.
"""

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from microvmd.node.log_files import (
    PAGE_SIZE,
    Entry,
    LogLimits,
    Page,
    StreamFiles,
    file_name,
    stream_names,
)
from microvmd.node.log_lines import LineSplitter, lines_of, printable

__all__ = ["Entry", "LineSplitter", "LogLimits", "LogStore", "Page", "lines_of", "printable"]

log = structlog.get_logger(__name__)

WAITING = 256 * 1024
"""Characters of one stream that may wait for the disk."""
PAGE = 1000
"""Lines that a follower reads at a time."""


@dataclass(slots=True, eq=False)
class _Stream:
    files: StreamFiles
    repaired: bool = False
    entries: deque[Entry] = field(default_factory=deque)
    waiting: int = 0
    lost: int = 0
    """Lines that could not be written since the last that could."""
    followers: int = 0
    written: asyncio.Event = field(default_factory=asyncio.Event)
    """Set and replaced whenever the writer was here."""


@dataclass(slots=True, eq=False)
class _GroupFollower:
    streams: set[str] = field(default_factory=set)
    """Streams that may hold lines which the follower has not seen."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self, stream: str | None = None) -> None:
        if stream is not None:
            self.streams.add(stream)
        self.woken.set()


class LogStore:
    """Streams below one directory; a context manager that writes everything out at its end."""

    def __init__(
        self,
        directory: Path,
        limits: LogLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._limits = limits or LogLimits()
        self._clock = clock
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._dirty: dict[tuple[str, str], _Stream] = {}
        self._watchers: defaultdict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)
        self._group_followers: defaultdict[str, set[_GroupFollower]] = defaultdict(set)
        self._work = asyncio.Event()
        self._closing = False
        self._complete = False
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            tasks.create_task(self._write_all(), name="logs.writer")
            stack.callback(self._close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not handed on: the task group would cancel the writer, or wrap the body's error.
        await self._stack.aclose()

    async def append(
        self, group: str, stream: str, lines: Sequence[str], at: float | None = None
    ) -> None:
        """Add lines with the time `at` (seconds since the epoch; now if None).

        Returns before they are on disk, unless too many of this stream are still waiting.
        """
        if not lines:
            return
        state = self._stream(group, stream)
        moment = self._clock() if at is None else at
        state.entries.extend(Entry(moment, line) for line in lines)
        state.waiting += _size(lines)
        self._dirty[group, stream] = state
        self._work.set()
        while state.waiting > WAITING and not self._closing:
            await state.written.wait()

    async def read(
        self, group: str, stream: str, start: int = 0, limit: int = PAGE, size: int = PAGE_SIZE
    ) -> Page:
        """Up to `limit` lines and about `size` bytes that are on disk, from a position on.

        The position is 0 or one that a former page named. An unknown stream is an empty one. Follow
        `Page.next` until a page is empty.
        """
        files = self._files(group, stream)
        return await asyncio.to_thread(files.read, start, limit, size)

    async def end(self, group: str, stream: str) -> int:
        """The position behind all that is on disk."""
        return await asyncio.to_thread(self._files(group, stream).end)

    @contextlib.contextmanager
    def watch(self, group: str, stream: str, woken: asyncio.Event) -> Iterator[None]:
        """Set an event whenever lines of a stream have been written, or lost."""
        watching = self._watchers[group, stream]
        watching.add(woken)
        try:
            yield
        finally:
            watching.discard(woken)
            if not watching:
                self._watchers.pop((group, stream), None)

    async def follow(self, group: str, stream: str, start: int = 0) -> AsyncGenerator[Entry, None]:
        """All lines from a position on, and then each that is written, until the store closes."""
        state = self._stream(group, stream)
        state.followers += 1
        try:
            position = start
            while True:
                written, complete = state.written, self._complete
                page = await self.read(group, stream, position, PAGE)
                for entry in page.entries:
                    yield entry
                # Whatever was written since the event was taken sets it.
                if page.next == position:
                    if complete:
                        return
                    await written.wait()
                position = page.next
        finally:
            state.followers -= 1
            self._forget(group, stream, state)

    async def streams(self, group: str) -> list[str]:
        """Streams of a group that have lines on disk, in order of their names."""
        return await asyncio.to_thread(stream_names, self._directory / file_name(group))

    async def follow_group(self, group: str) -> AsyncGenerator[tuple[str, Entry], None]:
        """All lines of all streams, and then each that is written, until the store closes.

        Lines of one stream are in order. What is on disk already comes stream by stream; a stream
        that is new later is followed too.
        """
        follower = _GroupFollower()
        self._group_followers[group].add(follower)
        try:
            # After the follower is known: what is written meanwhile wakes it.
            follower.streams.update(await self.streams(group))
            positions: dict[str, int] = {}
            while True:
                complete = self._complete
                streams, follower.streams = follower.streams, set()
                for stream in sorted(streams):
                    page = await self.read(group, stream, positions.get(stream, 0))
                    while page.entries:
                        for entry in page.entries:
                            yield stream, entry
                        page = await self.read(group, stream, page.next)
                    positions[stream] = page.next
                if not streams:
                    if complete:
                        return
                    await follower.woken.wait()
                    follower.woken.clear()
        finally:
            self._group_followers[group].discard(follower)
            if not self._group_followers[group]:
                del self._group_followers[group]

    def waiting(self, group: str, stream: str) -> int:
        """Characters of a stream that are not on disk yet."""
        state = self._streams.get((group, stream))
        return 0 if state is None else state.waiting

    async def flush(self) -> None:
        """Until everything that was appended before is on disk, or lost."""
        for state in list(self._streams.values()):
            while state.waiting:
                await state.written.wait()

    def _files(self, group: str, stream: str) -> StreamFiles:
        return StreamFiles(self._directory / file_name(group), stream, self._limits)

    def _stream(self, group: str, stream: str) -> _Stream:
        state = self._streams.get((group, stream))
        if state is None:
            state = self._streams[group, stream] = _Stream(self._files(group, stream))
        return state

    def _forget(self, group: str, stream: str, state: _Stream) -> None:
        """Keep no state of a stream that nobody uses: there are as many as MicroVMs ever ran."""
        if not (state.waiting or state.lost or state.followers):
            self._streams.pop((group, stream), None)

    def _close(self) -> None:
        self._closing = True
        self._work.set()

    async def _write_all(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._dirty:
                key = next(iter(self._dirty))
                await self._write(*key, self._dirty.pop(key))
            if self._closing:
                self._complete = True
                for state in self._streams.values():
                    state.written.set()
                for follower in itertools.chain.from_iterable(self._group_followers.values()):
                    follower.wake()
                return

    async def _write(self, group: str, stream: str, state: _Stream) -> None:
        entries = list(state.entries)
        state.entries.clear()
        size = _size([entry.text for entry in entries])
        if state.lost:
            notice = f"[{state.lost} lines were lost: the log could not be written]"
            entries.insert(0, Entry(entries[0].time, notice))
        try:
            await asyncio.to_thread(_write, state, entries)
        except OSError as error:
            log.error("logs.lost", group=group, stream=stream, lines=len(entries), error=str(error))
            state.lost += len(entries) - bool(state.lost)
        else:
            state.lost = 0
        state.waiting -= size
        state.written.set()
        state.written = asyncio.Event()
        for woken in self._watchers.get((group, stream), ()):
            woken.set()
        for follower in self._group_followers.get(group, ()):
            follower.wake(stream)
        self._forget(group, stream, state)


def _size(lines: Sequence[str]) -> int:
    return sum(map(len, lines)) + len(lines)


def _write(state: _Stream, entries: Sequence[Entry]) -> None:
    """Runs in a thread."""
    if not state.repaired:
        state.files.repair()
        state.repaired = True
    state.files.write(entries)
