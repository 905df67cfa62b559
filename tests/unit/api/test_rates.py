"""Held calls: their order, those who leave, whose budget it is, and what is kept of it all."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from microvmd.api import rates as module
from microvmd.api.rates import Rates
from microvmd.model.errors import Throttled
from microvmd.model.rate import RateLimits

pytestmark = pytest.mark.anyio


def _limits(per_second: float, wait: float = 5.0) -> RateLimits:
    return RateLimits({"RunMicrovm": per_second, "GetMicrovm": 0}, 1.0, wait)


async def _stays() -> None:
    await asyncio.Event().wait()


async def test_held_calls_go_on_in_order() -> None:
    rates, order = Rates(_limits(50.0)), list[int]()

    async def call(number: int) -> None:
        await rates.admit("1", "RunMicrovm", _stays)
        order.append(number)

    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(60):
            tasks.create_task(call(number))
    assert order == list(range(60))
    assert loop.time() - began >= 10 / 50 - 0.01


async def test_too_long_a_wait_is_refused_at_once() -> None:
    rates = Rates(_limits(1.0, wait=0.0))
    await rates.admit("1", "RunMicrovm", _stays)
    with pytest.raises(Throttled) as refused:
        await rates.admit("1", "RunMicrovm", _stays)
    assert refused.value.retry_after == 1


async def test_each_account_and_operation_has_a_budget_of_its_own() -> None:
    rates = Rates(_limits(1.0, wait=0.0))
    for account, operation in (("1", "RunMicrovm"), ("2", "RunMicrovm"), ("1", "ListTags")):
        await rates.admit(account, operation, _stays)
        with pytest.raises(Throttled):
            await rates.admit(account, operation, _stays)
    assert rates.use("1").keys() == {"RunMicrovm", "ListTags"}


async def test_no_limit() -> None:
    rates = Rates(_limits(1.0, wait=0.0))
    for _ in range(100):
        await rates.admit("1", "GetMicrovm", _stays)


async def test_who_goes_away_gives_the_place_to_the_next() -> None:
    rates, gone = Rates(_limits(10.0)), asyncio.Event()
    for _ in range(10):
        await rates.admit("1", "RunMicrovm", _stays)

    async def leaves() -> None:
        await gone.wait()

    async with asyncio.TaskGroup() as tasks:
        leaving = [tasks.create_task(_refused(rates, leaves)) for _ in range(20)]
        last = tasks.create_task(rates.admit("1", "RunMicrovm", _stays))
        await asyncio.sleep(0)
        assert rates.use("1")["RunMicrovm"].waiting == 21
        gone.set()
        await asyncio.wait(leaving)
        assert rates.use("1")["RunMicrovm"].waiting <= 1
        async with asyncio.timeout(1):
            await last


async def _refused(rates: Rates, gone: module.Gone) -> None:
    with pytest.raises(ClientDisconnect):
        await rates.admit("1", "RunMicrovm", gone)


async def test_a_cancelled_wait_costs_nothing() -> None:
    rates = Rates(_limits(1.0))
    await rates.admit("1", "RunMicrovm", _stays)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(rates.admit("1", "RunMicrovm", _stays))
        await asyncio.sleep(0)
        waiting.cancel()
    assert waiting.cancelled()
    assert rates.use("1")["RunMicrovm"].waiting == 0


async def test_a_token_that_came_too_late_is_given_back() -> None:
    now = 0.0
    rates = Rates(_limits(1.0), clock=lambda: now)
    await rates.admit("1", "RunMicrovm", _stays)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(rates.admit("1", "RunMicrovm", _stays))
        await asyncio.sleep(0)
        now = 1.0
        lane = rates._lanes["1", "RunMicrovm"]
        rates._release(lane)
        assert not lane.bucket.waiting
        waiting.cancel()
    assert rates.use("1") == {}, "the bucket is full again"


async def test_buckets_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    now = 0.0
    rates = Rates(_limits(1.0), clock=lambda: now)
    for number in range(1000):
        now += 0.5
        await rates.admit(str(number), "RunMicrovm", _stays)
        assert len(rates._lanes) <= 10
