"""The log of one build: lines from anywhere in it, in order, into the log store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from microvmd.build.lines import LINE_LIMIT, LINES_PER_SECOND, Meter
from microvmd.messages.node import LogTarget
from microvmd.node.guest_streams import LogQueue
from microvmd.node.logs import LogStore, lines_of, printable
from microvmd.node.output import paced
from microvmd.vmm.causes import ungrouped


class Printing(Protocol):
    """A guest, for whoever reads what its application prints."""

    @property
    def logs(self) -> LogQueue: ...


class BuildLog:
    """Call it with a line. Made by ``build_log``.

    Whoever brings lines of a stranger bounds how many; here they are cut and made printable.
    """

    def __init__(self, rate: int = LINES_PER_SECOND) -> None:
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._rate = rate

    def __call__(self, line: str) -> None:
        self._lines.put_nowait(printable(line[:LINE_LIMIT]))

    async def follow(self, guest: Printing) -> None:
        """Log what the application of a build prints, until its guest is gone."""
        meter = Meter(rate=self._rate)
        async for lines in lines_of(paced(guest.logs)):
            for line in lines:
                for kept in meter.admit(line[:LINE_LIMIT]):
                    self(kept)
        for notice in meter.dropped():
            self(notice)

    async def write(self, store: LogStore, target: LogTarget) -> None:
        """Until ``end``: everything that was logged so far goes as one piece."""
        while True:
            lines = [await self._lines.get()]
            while not self._lines.empty():
                lines.append(self._lines.get_nowait())
            await store.append(
                target.group, target.stream, [line for line in lines if line is not None]
            )
            if None in lines:
                return

    def end(self) -> None:
        self._lines.put_nowait(None)


@asynccontextmanager
async def build_log(
    store: LogStore, target: LogTarget, rate: int = LINES_PER_SECOND
) -> AsyncIterator[BuildLog]:
    """A log whose lines are all in the store when the context ends."""
    log = BuildLog(rate)
    with ungrouped():
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(log.write(store, target))
            try:
                yield log
            finally:
                log.end()
                # Not left to the group, which cancels it when the build fails.
                await writing
