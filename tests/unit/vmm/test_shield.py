"""Cleanup ends although its caller is cancelled, but not later than its limit."""

import asyncio

import pytest

from microvmd.vmm.shield import shielded

pytestmark = pytest.mark.anyio


async def test_gives_the_result_and_passes_errors_on() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    assert await shielded(asyncio.sleep(0, "done"), limit=5) == "done"
    with pytest.raises(ValueError, match="broken"):
        await shielded(fail(), limit=5)


async def test_finishes_before_the_cancellation_goes_on() -> None:
    started, asked, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await asked.wait()
        finished.set()

    async with asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(shielded(work(), limit=5, on_cancel=asked.set))
        await started.wait()
        caller.cancel()
    assert caller.cancelled()
    assert finished.is_set()


async def test_gives_up_at_its_limit() -> None:
    with pytest.raises(TimeoutError):
        await shielded(asyncio.Event().wait(), limit=0.05)
