"""The store: order, followers, back-pressure, a disk that fails, what is there after the end."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from microvmd.node import logs
from microvmd.node.log_files import Entry, LogLimits
from microvmd.node.logs import LogStore

LIMIT = 10.0


def texts(entries: tuple[Entry, ...]) -> list[str]:
    return [entry.text for entry in entries]


def test_everything_is_on_disk_when_the_store_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with LogStore(tmp_path, clock=lambda: 5.0) as store:
            await store.append("g", "s", ["one", "two"])
            await store.append("g", "s", ["three"], at=7.25)
        async with LogStore(tmp_path) as store:
            page = await store.read("g", "s")
            assert page.entries == (Entry(5.0, "one"), Entry(5.0, "two"), Entry(7.25, "three"))
            assert (await store.read("g", "other")).entries == ()

    asyncio.run(main())


def test_streams_do_not_mix(tmp_path: Path) -> None:
    async def main() -> None:
        async with LogStore(tmp_path) as store:
            for number in range(50):
                await store.append("g", f"s{number % 3}", [str(number)])
            await store.flush()
            for stream in range(3):
                expected = [str(number) for number in range(50) if number % 3 == stream]
                assert texts((await store.read("g", f"s{stream}")).entries) == expected

    asyncio.run(main())


def test_a_follower_gets_old_and_new_lines(tmp_path: Path) -> None:
    async def main() -> None:
        async with LogStore(tmp_path) as store:
            await store.append("g", "s", ["old"])
            await store.flush()
            async with asyncio.timeout(LIMIT), contextlib.aclosing(store.follow("g", "s")) as lines:
                assert (await anext(lines)).text == "old"
                for number in range(20):
                    await store.append("g", "s", [f"new {number}"])
                    assert (await anext(lines)).text == f"new {number}"

    asyncio.run(main())


async def first_line(store: LogStore) -> str:
    async with contextlib.aclosing(store.follow("g", "s")) as lines:
        return (await anext(lines)).text


def test_a_follower_may_come_before_the_first_line(tmp_path: Path) -> None:
    async def main() -> None:
        async with LogStore(tmp_path) as store, asyncio.timeout(LIMIT):
            async with asyncio.TaskGroup() as tasks:
                first = tasks.create_task(first_line(store))
                await asyncio.sleep(0)
                await store.append("g", "s", ["first"])
            assert first.result() == "first"

    asyncio.run(main())


def test_followers_end_with_the_store_and_miss_nothing(tmp_path: Path) -> None:
    async def collect(store: LogStore) -> list[str]:
        return [entry.text async for entry in store.follow("g", "s")]

    async def main() -> None:
        async with (
            asyncio.timeout(LIMIT),
            asyncio.TaskGroup() as tasks,
            LogStore(tmp_path) as store,
        ):
            followers = [tasks.create_task(collect(store)) for _ in range(3)]
            await asyncio.sleep(0)
            for number in range(100):
                await store.append("g", "s", [str(number)])
        for follower in followers:
            assert follower.result() == [str(number) for number in range(100)]

    asyncio.run(main())


def test_a_group_is_followed_with_the_streams_that_appear_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with LogStore(tmp_path) as store, asyncio.timeout(LIMIT):
            assert await store.streams("g") == []
            await store.append("g", "b", ["old b"])
            await store.append("g", "a", ["old a", "old a 2"])
            await store.append("other", "a", ["of another group"])
            await store.flush()
            assert await store.streams("g") == ["a", "b"]
            async with contextlib.aclosing(store.follow_group("g")) as lines:
                old = [await anext(lines) for _ in range(3)]
                assert [(stream, entry.text) for stream, entry in old] == [
                    ("a", "old a"),
                    ("a", "old a 2"),
                    ("b", "old b"),
                ]
                for stream in ("b", "new", "a", "new"):
                    await store.append("g", stream, [f"later {stream}"])
                    found, entry = await anext(lines)
                    assert (found, entry.text) == (stream, f"later {stream}")

    asyncio.run(main())


def test_followers_of_a_group_end_with_the_store_and_miss_nothing(tmp_path: Path) -> None:
    async def collect(store: LogStore) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        async for stream, entry in store.follow_group("g"):
            found.setdefault(stream, []).append(entry.text)
        return found

    async def main() -> None:
        async with (
            asyncio.timeout(LIMIT),
            asyncio.TaskGroup() as tasks,
            LogStore(tmp_path) as store,
        ):
            followers = [tasks.create_task(collect(store)) for _ in range(2)]
            await asyncio.sleep(0)
            for number in range(1500):
                await store.append("g", f"s{number % 3}", [str(number)])
        for follower in followers:
            assert follower.result() == {
                f"s{stream}": [str(number) for number in range(stream, 1500, 3)]
                for stream in range(3)
            }

    asyncio.run(main())


def test_who_appends_too_fast_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "WAITING", 100)

    async def main() -> None:
        async with LogStore(tmp_path) as store, asyncio.timeout(LIMIT):
            for _ in range(50):
                await store.append("g", "s", ["x" * 80])
                assert store.waiting("g", "s") <= 100
            await store.append("g", "s", ["y" * 1000])
            assert store.waiting("g", "s") == 0

    asyncio.run(main())


def test_a_disk_that_fails_loses_lines_and_says_so(tmp_path: Path) -> None:
    group = tmp_path / "g"

    async def main() -> None:
        async with LogStore(tmp_path) as store:
            group.write_text("in the way")
            await store.append("g", "s", ["lost", "lost too"])
            await store.flush()
            await store.append("g", "s", ["lost as well"])
            await store.flush()
            await asyncio.to_thread(group.unlink)
            await store.append("g", "s", ["kept"])
            await store.flush()
            assert texts((await store.read("g", "s")).entries) == [
                "[3 lines were lost: the log could not be written]",
                "kept",
            ]

    asyncio.run(main())


def test_a_follower_is_told_of_dropped_lines(tmp_path: Path) -> None:
    async def main() -> None:
        async with LogStore(tmp_path, LogLimits(stream=1000, segment=100)) as store:
            for number in range(200):
                await store.append("g", "s", [f"line {number}"])
            await store.flush()
            async with contextlib.aclosing(store.follow("g", "s")) as lines:
                assert (await anext(lines)).text == "[older lines were dropped]"

    asyncio.run(main())


def test_the_bodys_error_comes_out_as_it_is_and_lines_are_kept(tmp_path: Path) -> None:
    async def fail() -> None:
        async with LogStore(tmp_path) as store:
            await store.append("g", "s", ["kept"])
            raise KeyError

    async def main() -> None:
        with pytest.raises(KeyError):
            await fail()
        async with LogStore(tmp_path) as store:
            assert texts((await store.read("g", "s")).entries) == ["kept"]

    asyncio.run(main())
