"""Of several ways one ends first, and the others with it."""

import asyncio

import pytest

from microvmd.messages.shell import first_ended

pytestmark = pytest.mark.anyio


async def test_the_first_in_order_counts_and_the_others_are_cancelled() -> None:
    cancelled = asyncio.Event()

    async def at_once(name: str) -> str:
        return name

    async def never() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    assert await first_ended(never(), at_once("first"), at_once("second")) == "first"
    assert cancelled.is_set()


async def test_a_way_that_fails_fails_the_whole() -> None:
    async def broken() -> str:
        raise RuntimeError("broken")

    with pytest.raises(ExceptionGroup) as caught:
        await first_ended(broken())
    assert isinstance(caught.value.exceptions[0], RuntimeError)
