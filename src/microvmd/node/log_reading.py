"""Lines of the log store as a reader asks for them: of one stream or a group, once or followed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from microvmd.messages.node_requests import LogLine
from microvmd.node.logs import LogStore


class LogReader:
    """Reads what is in a store and what comes later."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    async def lines(
        self, group: str, stream: str | None, *, follow: bool
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of one stream, or of all streams of the group; with ``follow`` for ever."""
        if stream is None:
            lines = self._follow_group(group) if follow else self._read_group(group)
        else:
            lines = self._follow(group, stream) if follow else self._read(group, stream)
        async with aclosing(lines):
            async for line in lines:
                yield line

    async def _follow(self, group: str, stream: str) -> AsyncGenerator[LogLine, None]:
        async with aclosing(self._store.follow(group, stream)) as entries:
            async for entry in entries:
                yield LogLine(entry.time, stream, entry.text)

    async def _follow_group(self, group: str) -> AsyncGenerator[LogLine, None]:
        async with aclosing(self._store.follow_group(group)) as entries:
            async for stream, entry in entries:
                yield LogLine(entry.time, stream, entry.text)

    async def _read(self, group: str, stream: str) -> AsyncGenerator[LogLine, None]:
        await self._store.flush()
        page = await self._store.read(group, stream)
        while page.entries:
            for entry in page.entries:
                yield LogLine(entry.time, stream, entry.text)
            page = await self._store.read(group, stream, page.next)

    async def _read_group(self, group: str) -> AsyncGenerator[LogLine, None]:
        await self._store.flush()
        for stream in await self._store.streams(group):
            async with aclosing(self._read(group, stream)) as lines:
                async for line in lines:
                    yield line
