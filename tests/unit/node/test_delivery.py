"""Delivery follows the log store: nothing lost over failures, ends, resumes and restarts."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from microvmd.messages.node import LogDelivery, LogTarget
from microvmd.node import delivery
from microvmd.node.cloudwatch import DeliveryDenied, DeliveryFailed
from microvmd.node.delivery import Deliveries
from microvmd.node.log_files import Entry, LogLimits
from microvmd.node.logs import LogStore
from microvmd.node.roles import RoleCredentials, RoleRefused, Roles
from tests.unit.node.test_roles import Sts

pytestmark = pytest.mark.anyio

ROLE = "arn:aws:iam::000000000000:role/app"
LOG = LogTarget("group", "stream")
TO = LogDelivery("their-group", "their-stream", ROLE)


@dataclass
class Sink:
    """CloudWatch Logs in memory; `fails` is what it raises."""

    fails: Exception | None = None
    lines: list[str] = field(default_factory=list)
    tried: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def send(self, to: LogDelivery, role: RoleCredentials, entries: Sequence[Entry]) -> None:
        assert to == TO
        self.tried.release()
        if self.fails is not None:
            raise self.fails
        self.lines += [entry.text for entry in entries]


@dataclass
class World:
    store: LogStore
    roles: Roles
    sink: Sink
    sts: Sts
    directory: Path
    deliveries: Deliveries
    now: float = 0.0

    async def say(self, *lines: str) -> None:
        await self.store.append(LOG.group, LOG.stream, lines)

    @asynccontextmanager
    async def delivered(self, key: str = "m", to: LogDelivery | None = TO) -> AsyncIterator[None]:
        with self.roles.session(ROLE, key) as role:
            async with self.deliveries.deliver(key, LOG, to, role):
                yield

    async def settled(self) -> None:
        """Until nothing is on its way."""
        await self.deliveries.settle(10)
        assert not self.deliveries.pending
        assert list(self.directory.iterdir()) == []


@asynccontextmanager
async def world(
    directory: Path, sink: Sink | None = None, limits: LogLimits | None = None
) -> AsyncIterator[World]:
    """A store and its deliveries, as one run of the service has them."""
    records = directory / "records"
    records.mkdir(exist_ok=True)
    sink, sts = sink or Sink(), Sts()
    async with LogStore(directory / "logs", limits) as store, asyncio.TaskGroup() as tasks:
        roles = Roles(sts, tasks, clock=lambda: sts.now)
        deliveries = Deliveries(records, store, roles, sink, tasks, lambda: made.now)
        made = World(store, roles, sink, sts, records, deliveries)
        await deliveries.go_on()
        try:
            yield made
        finally:
            await deliveries.stop(0.5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LINGER", 0.01)
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 0.02)


async def test_lines_are_delivered_as_they_come_and_to_the_last(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        async with w.delivered():
            await w.say("one", "two")
            async with asyncio.timeout(5):
                await w.sink.tried.acquire()
            await w.say("three")
        await w.settled()
        assert w.sink.lines == ["one", "two", "three"]


async def test_nothing_is_delivered_without_a_place(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        async with w.delivered(to=None):
            await w.say("one")
            await w.store.flush()
        assert list(w.directory.iterdir()) == []
        assert w.sink.lines == []


async def test_an_endpoint_that_is_down_delays_and_loses_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, Sink(DeliveryFailed("down"))) as w:
        async with w.delivered():
            await w.say("one")
            async with asyncio.timeout(5):
                for _ in range(3):
                    await w.sink.tried.acquire()
            await w.say("two")
            w.sink.fails = None
        await w.settled()
        assert w.sink.lines == ["one", "two"]


async def test_what_the_store_had_to_drop_is_marked(tmp_path: Path) -> None:
    limits = LogLimits(stream=2000, segment=500)
    async with world(tmp_path, Sink(DeliveryFailed("down")), limits) as w:
        async with w.delivered():
            for number in range(100):
                await w.say(f"{number:03} {'x' * 90}")
            await w.store.flush()
            w.sink.fails = None
        await w.settled()
        assert "[older lines were dropped]" in w.sink.lines
        assert len(w.sink.lines) < 100
        assert w.sink.lines[-1].startswith("099")


async def test_a_role_that_may_not_write_is_forgotten_at_the_end(tmp_path: Path) -> None:
    async with world(tmp_path, Sink(DeliveryDenied("no"))) as w:
        async with w.delivered():
            await w.say("one")
            async with asyncio.timeout(5):
                for _ in range(2):
                    await w.sink.tried.acquire()
            assert list(w.directory.iterdir()) != [], "it may get the permission"
        await w.settled()
        assert w.sink.lines == []


async def test_a_role_that_cannot_be_assumed_is_forgotten_at_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.sts.fails = RoleRefused("no")
        async with w.delivered():
            await w.say("one")
        await w.settled()
        assert w.sink.lines == []


async def test_a_failure_without_end_is_given_up(tmp_path: Path) -> None:
    async with world(tmp_path, Sink(DeliveryFailed("down"))) as w:
        async with w.delivered():
            await w.say("one")
        async with asyncio.timeout(5):
            await w.sink.tried.acquire()
        w.now = delivery.GIVE_UP_AFTER + 1
        await w.settled()


async def test_a_resume_goes_on_where_the_suspend_was(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        async with w.delivered():
            await w.say("before")
        await w.settled()
        async with w.delivered():
            await w.say("after")
        await w.settled()
        assert w.sink.lines == ["before", "after"]


async def test_a_resume_may_come_before_all_is_delivered(tmp_path: Path) -> None:
    async with world(tmp_path, Sink(DeliveryFailed("down"))) as w:
        async with w.delivered():
            await w.say("before")
        async with w.delivered():
            await w.say("after")
            async with asyncio.timeout(5):
                await w.sink.tried.acquire()
            w.sink.fails = None
        await w.settled()
        assert w.sink.lines == ["before", "after"]


async def test_a_restart_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, Sink(DeliveryFailed("down"))) as w, w.delivered():
        await w.say("one")
        async with asyncio.timeout(5):
            await w.sink.tried.acquire()
    async with world(tmp_path) as w:
        await w.settled()
        assert w.sink.lines == ["one"]
        assert w.sts.calls[0][:2] == (ROLE, "m"), "with its own session"


async def test_too_many_that_wait_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LATE_LOGS", 2)
    async with world(tmp_path, Sink(DeliveryFailed("down"))) as w:
        await w.say("one")
        for number in range(5):
            async with w.delivered(f"m-{number}"):
                await w.say("x")
                await w.store.flush()
        assert w.deliveries.pending == {"m-2", "m-3", "m-4"}


async def test_an_end_of_the_service_is_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 1000.0)
    async with asyncio.timeout(10), world(tmp_path, Sink(DeliveryFailed("down"))) as w:
        async with w.delivered():
            await w.say("one")
            async with asyncio.timeout(5):
                await w.sink.tried.acquire()
        begun = asyncio.get_running_loop().time()
        await w.deliveries.stop(5)
        assert asyncio.get_running_loop().time() - begun < 4
    assert len(list((tmp_path / "records").iterdir())) == 1
