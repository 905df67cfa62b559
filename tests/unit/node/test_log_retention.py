"""Streams that are old go, with groups that are empty then; all others stay."""

import asyncio
import os
from pathlib import Path

import pytest

from microvmd.node.log_retention import forget_old_logs, remove_older
from microvmd.node.logs import LogStore

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0


async def store(directory: Path, *names: tuple[str, str]) -> None:
    async with LogStore(directory) as made:
        for group, stream in names:
            await made.append(group, stream, ["line"])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def age(directory: Path, moment: float) -> None:
    for path in (*directory.rglob("*"), directory):
        os.utime(path, (moment, moment))


async def test_old_streams_go_and_others_stay(tmp_path: Path) -> None:
    long_name = "x" * 500
    await store(tmp_path, ("a", "one"), ("a", "two"), ("b", "three"), ("b", long_name), ("c", "4"))
    age(tmp_path, NOW - 10)
    for group, stream in (("a", "two"), ("c", "4")):
        for path in (tmp_path / group / stream).iterdir():
            os.utime(path, (NOW + 10, NOW + 10))
    assert remove_older(tmp_path, NOW) == 3
    async with LogStore(tmp_path) as made:
        assert await made.streams("a") == ["two"]
        assert await made.streams("c") == ["4"]
    assert names(tmp_path) == ["a", "c"]


async def test_a_stream_that_was_removed_can_be_written_again(tmp_path: Path) -> None:
    async with LogStore(tmp_path) as made:
        await made.append("a", "one", ["old"])
        await made.flush()
        age(tmp_path, NOW - 10)
        assert remove_older(tmp_path, NOW) == 1
        await made.append("a", "one", ["new"])
        await made.flush()
        page = await made.read("a", "one")
        assert [entry.text for entry in page.entries] == ["new"]


async def test_it_looks_at_once_and_goes_on(tmp_path: Path) -> None:
    await store(tmp_path, ("a", "one"))
    age(tmp_path, NOW - 100)
    looked = asyncio.Event()

    def clock() -> float:
        looked.set()
        return NOW

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        forgetting = tasks.create_task(forget_old_logs(tmp_path, 50, clock))
        await looked.wait()
        while names(tmp_path):  # noqa: ASYNC110 (a thread removes it)
            await asyncio.sleep(0.01)
        assert not forgetting.done()
        forgetting.cancel()
