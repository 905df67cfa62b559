"""Clocks of a guest that goes on hours after its snapshot: the wall clock is right, the other one
never goes back.

The hours are those of the machine's own clock, which is set. So this is collected where the machine
is the tests' own (`conftest.py`): in the KVM host.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from microvmd.messages.node import ResumeMicrovm, Started, Suspended
from microvmd.node.uniqueness import AHEAD_NS, BEHIND_NS
from tests.accelerated import accelerator_kind
from tests.nodelab import NodeLab, ask, spec_of
from tests.vm.test_microvm import gone, started, suspend

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

HOUR_NS = 3600 * 10**9
SOURCES = {"kvm": "kvm-clock", "tcg": "tsc"}


@dataclass(frozen=True, slots=True)
class Clocks:
    """As a process of the guest reads them, in nanoseconds."""

    monotonic: int
    source: str

    @classmethod
    async def of(cls, address: str) -> "Clocks":
        """Asserts that the wall clock is right."""
        before = time.time_ns()
        wall, monotonic, source = (await ask(address, "clocks")).split()
        assert before - BEHIND_NS <= int(wall) <= time.time_ns() + AHEAD_NS
        return cls(int(monotonic), source)


@contextlib.contextmanager
def later(nanos: int) -> Iterator[None]:
    """The machine's clock is ahead within the context."""
    time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + nanos)
    try:
        yield
    finally:
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() - nanos)


async def test_a_guest_goes_on_hours_later(node_lab: NodeLab) -> None:
    spec = spec_of()
    again = replace(spec, generation=2)
    async with node_lab.node() as node:
        with later(HOUR_NS):
            first = await Clocks.of(await started(node, spec))
            await suspend(node, spec)
            await node.reports.next(Suspended)
        with later(2 * HOUR_NS):
            await node.agent.send(ResumeMicrovm(again))
            address = (await node.reports.next(Started)).edge_address
            seen = [await Clocks.of(address) for _ in range(3)]
            await gone(node, again)
    sources = {clocks.source for clocks in (first, *seen)}
    assert sources == {SOURCES[accelerator_kind().value]}
    counted = [clocks.monotonic for clocks in (first, *seen)]
    assert counted == sorted(counted)
    # Firecracker 1.12 has KVM add what went by meanwhile, where KVM can (Linux 5.16).
    stood_still = seen[0].monotonic - first.monotonic < HOUR_NS
    assert stood_still is (node_lab.vmm_kind == "qemu")
