"""Samples of live MicroVMs, and lists that tell only what has changed."""

import os
import resource
from collections.abc import Mapping
from dataclasses import replace

import pytest

from microvmd.edge.activity import Activity
from microvmd.messages.node_requests import Vmm
from microvmd.model.microvm import MicroVm, Phase
from microvmd.service.live import ASKED_AT_ONCE, COLUMNS, KEPT, Live, use_of
from microvmd.vmm.process import ProcessIdentity
from tests.unit.control.plane import ACCOUNT
from tests.unit.control.test_store import microvm

pytestmark = pytest.mark.anyio

OWN = ProcessIdentity.of(os.getpid())
VMM = Vmm(OWN.pid, OWN.start_time)


class World:
    """What there is to look at; the VMM of every MicroVM is this very process."""

    def __init__(self, *live: MicroVm) -> None:
        self.microvms = list(live)
        self.traffic: Mapping[str, Activity] | None = {}
        self.now = 1000.0
        self.asked: list[str] = []
        self.live = Live(lambda: self.microvms, self._traffic, self._vmm_of, lambda: self.now)

    async def look(self, seconds: float = 2.0) -> None:
        self.now += seconds
        await self.live.look()

    async def _traffic(self) -> Mapping[str, Activity]:
        if self.traffic is None:
            raise OSError("HAProxy is not there")
        return self.traffic

    async def _vmm_of(self, microvm_id: str) -> Vmm | None:
        self.asked.append(microvm_id)
        return VMM


def running(number: int) -> MicroVm:
    return replace(microvm(number), phase=Phase.RUNNING)


def test_use_is_what_the_kernel_counts() -> None:
    use = use_of(VMM)
    assert use is not None
    own = resource.getrusage(resource.RUSAGE_SELF)
    assert use.cpu_s <= own.ru_utime + own.ru_stime + 0.1
    assert 0 < use.memory <= own.ru_maxrss << 10
    assert use_of(Vmm(OWN.pid, OWN.start_time + 1)) is None, "another process with that pid"
    assert use_of(Vmm(2**22 + 1, 1)) is None


async def test_rates_are_differences() -> None:
    one = running(1)
    world = World(one)
    world.traffic = {one.endpoint_id: Activity(1000, 1, 10)}
    await world.look()
    assert world.live.samples(one.microvm_id, 0)[0][3:] == [None, None]
    world.traffic = {one.endpoint_id: Activity(3000, 1, 15)}
    await world.look()
    first, second = world.live.samples(one.microvm_id, 0)
    found = dict(zip(COLUMNS, second, strict=True))
    assert (found["time"], found["bytes"], found["requests"]) == (world.now, 1000.0, 2.5)
    assert found["cpu"] is not None
    assert found["memory"]
    world.traffic = {one.endpoint_id: Activity(5, 0, 1)}
    await world.look()
    assert world.live.samples(one.microvm_id, world.now - 1)[0][3:] == [0.0, 0.0]
    world.traffic = None
    await world.look()
    assert world.live.samples(one.microvm_id, world.now - 1)[0][3:] == [None, None]
    assert first[0] == 1002.0


async def test_a_look_without_traffic_makes_no_rate_too_high() -> None:
    one = running(1)
    world = World(one)
    world.traffic = {one.endpoint_id: Activity(1000, 1, 10)}
    await world.look()
    world.traffic = None
    await world.look()
    world.traffic = {one.endpoint_id: Activity(9000, 1, 50)}
    await world.look()
    assert world.live.samples(one.microvm_id, world.now - 1)[0][3:] == [None, None]
    world.traffic = {one.endpoint_id: Activity(9200, 1, 51)}
    await world.look()
    assert world.live.samples(one.microvm_id, world.now - 1)[0][3:] == [100.0, 0.5]


async def test_an_endpoint_without_a_request_has_none() -> None:
    world = World(running(1))
    await world.look()
    await world.look()
    (row,) = world.live.rows(ACCOUNT, None).rows
    assert row.rate == 0.0


async def test_a_ring_is_bounded_and_goes_with_its_microvm() -> None:
    one = running(1)
    world = World(one)
    for _ in range(KEPT + 5):
        await world.look()
    assert len(world.live.samples(one.microvm_id, 0)) == KEPT
    world.microvms.clear()
    await world.look()
    assert world.live.samples(one.microvm_id, 0) == []


async def test_the_node_is_asked_once_for_each_generation() -> None:
    one = running(1)
    world = World(one)
    await world.look()
    await world.look()
    assert world.asked == [one.microvm_id]
    world.microvms = [replace(one, phase=Phase.SUSPENDED)]
    await world.look()
    (row,) = world.live.rows(ACCOUNT, None).rows
    assert (row.state, row.memory, row.cpu) == ("SUSPENDED", None, None)
    world.microvms = [replace(one, generation=2)]
    await world.look()
    assert world.asked == [one.microvm_id] * 2


async def test_many_are_asked_for_bit_by_bit() -> None:
    world = World(*(running(number) for number in range(ASKED_AT_ONCE + 5)))
    await world.look()
    assert len(world.asked) == ASKED_AT_ONCE
    await world.look()
    assert len(world.asked) == ASKED_AT_ONCE + 5


async def test_only_changes_are_told() -> None:
    one, two = running(1), running(2)
    world = World(one, two)
    first = world.live.rows(ACCOUNT, None)
    assert {row.microvm for row in first.rows} == {one.microvm_id, two.microvm_id}
    assert first.microvms is not None
    again = world.live.rows(ACCOUNT, first.version)
    assert (again.rows, again.microvms, again.version) == ([], None, first.version)
    world.microvms[1] = replace(two, phase=Phase.SUSPENDING)
    third = world.live.rows(ACCOUNT, again.version)
    assert [row.state for row in third.rows] == ["SUSPENDING"]
    assert third.microvms is None
    world.microvms.pop()
    fourth = world.live.rows(ACCOUNT, third.version)
    assert (fourth.rows, fourth.microvms) == ([], [one.microvm_id])
    late = world.live.rows(ACCOUNT, first.version)
    assert late.microvms == [one.microvm_id]


@pytest.mark.parametrize("version", ["", "1", "other.5", "x.y", "é.²"])
async def test_a_version_of_nobody_gets_all(version: str) -> None:
    world = World(running(1))
    world.live.rows(ACCOUNT, None)
    assert len(world.live.rows(ACCOUNT, version).rows) == 1


async def test_an_account_sees_its_own() -> None:
    world = World(running(1), replace(running(2), account="210987654321"))
    assert len(world.live.rows(ACCOUNT, None).rows) == 1
    assert world.live.rows("111111111111", None).rows == []


async def test_the_idle_clock_and_the_image() -> None:
    world = World(running(1))
    (row,) = world.live.rows(ACCOUNT, None).rows
    policy = world.microvms[0].idle_policy
    assert (row.idle_at is None) == (policy is None)
    assert (row.image, row.version) == ("app", world.microvms[0].image_version)
