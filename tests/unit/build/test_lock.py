"""Locks between builds: they exclude, tell who waits, and a cancelled wait ends."""

import asyncio
import contextlib
import os
from pathlib import Path

from microvmd.build.lock import exclusive, if_free


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "sub" / "lock"
        order: list[str] = []
        waiting = asyncio.Event()

        async def second() -> None:
            async with exclusive(path, timeout_seconds=30, on_wait=waiting.set):
                order.append("second")

        async with asyncio.TaskGroup() as tasks, exclusive(path, timeout_seconds=30):
            tasks.create_task(second())
            await waiting.wait()
            with if_free(path) as free:
                assert not free
            order.append("first")
        assert order == ["first", "second"]
        with if_free(path) as free:
            assert free

    asyncio.run(main())


def test_a_cancelled_wait_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "lock"
        waiting = asyncio.Event()

        async def wait() -> None:
            async with exclusive(path, timeout_seconds=30, on_wait=waiting.set):
                raise AssertionError("it is held")

        before = len(os.listdir("/proc/self/fd"))
        async with exclusive(path, timeout_seconds=30), asyncio.TaskGroup() as tasks:
            work = tasks.create_task(wait())
            await waiting.wait()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())
