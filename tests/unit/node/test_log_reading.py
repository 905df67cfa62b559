"""Lines of one stream or of a group, what is there and what comes."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from microvmd.node.log_reading import LogReader
from microvmd.node.logs import LogStore

pytestmark = pytest.mark.anyio

GROUP = "000000000000:group"


async def _texts(
    store: LogStore, stream: str | None, count: int, *, follow: bool
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    async with aclosing(LogReader(store).lines(GROUP, stream, follow=follow)) as lines:
        async for line in lines:
            found.append((line.stream, line.message))
            if len(found) == count:
                break
    return found


async def test_what_was_just_appended_is_read(tmp_path: Path) -> None:
    async with LogStore(tmp_path) as store:
        await store.append(GROUP, "b", ["one"])
        await store.append(GROUP, "a", [str(n) for n in range(2000)])
        assert await _texts(store, "b", 10, follow=False) == [("b", "one")]
        every = await _texts(store, None, 5000, follow=False)
        assert every == [("a", str(n)) for n in range(2000)] + [("b", "one")]
        assert await _texts(store, "c", 10, follow=False) == []


@pytest.mark.parametrize("stream", ["a", None])
async def test_a_follower_gets_what_comes(tmp_path: Path, stream: str | None) -> None:
    async with LogStore(tmp_path) as store, asyncio.TaskGroup() as tasks:
        await store.append(GROUP, "a", ["old"])
        reading = tasks.create_task(_texts(store, stream, 2, follow=True))
        await store.flush()
        await store.append(GROUP, "a", ["new"])
        assert await reading == [("a", "old"), ("a", "new")]
