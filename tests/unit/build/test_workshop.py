"""A build that fills the node's disk ends before the disk is full."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from microvmd.build import workshop
from microvmd.build.workshop import DiskFull, StoreFull, watch_space


def test_a_full_disk_cancels_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "_FREE_FLOOR", 1 << 80)
    cancelled: list[str] = []

    async def main() -> None:
        async with watch_space(tmp_path):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append("build")
                raise

    with pytest.raises(DiskFull):
        asyncio.run(main())
    assert cancelled == ["build"]


def test_a_store_that_outgrows_its_limit_cancels_the_build(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(b"x" * 100_000)

    async def main() -> None:
        async with watch_space(tmp_path, tmp_path, 50_000):
            await asyncio.Event().wait()

    with pytest.raises(StoreFull):
        asyncio.run(main())


def test_the_builds_own_errors_come_out_as_they_are(tmp_path: Path) -> None:
    async def main() -> None:
        async with watch_space(tmp_path):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())


def test_a_build_ends_its_watch(tmp_path: Path) -> None:
    async def main() -> int:
        async with watch_space(tmp_path):
            await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


def test_cancellation_passes_through(tmp_path: Path) -> None:
    async def work() -> None:
        async with watch_space(tmp_path):
            await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work())
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()

    asyncio.run(main())
