"""A clone that is not proven to be itself is not let out: real guests, restored from one image."""

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.messages.node import (
    Died,
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendMicrovm,
    Terminated,
)
from microvmd.model.identifiers import new_microvm_id
from microvmd.node import bring_up
from microvmd.node.guest import GuestClient, Identity, connect_restored
from microvmd.node.uniqueness import Given, Uniqueness
from tests.nodelab import NodeLab, RunningNode, spec_of

pytestmark = [pytest.mark.security, pytest.mark.vm, pytest.mark.root, pytest.mark.anyio]


async def test_each_start_and_resume_is_proven(
    lab: NodeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven: list[tuple[Given, Identity]] = []
    prove = Uniqueness.prove

    def proving(self: Uniqueness, given: Given, found: Identity) -> None:
        prove(self, given, found)
        proven.append((given, found))

    monkeypatch.setattr(Uniqueness, "prove", proving)
    async with lab.node() as node:
        first, second = spec_of(), spec_of()
        for spec in (first, second):
            await node.start(spec)
            await node.reports.next(Started)
        await node.agent.send(SuspendMicrovm(first.microvm_id, first.generation))
        await node.reports.next(Suspended)
        resumed = replace(first, generation=2)
        await node.agent.send(ResumeMicrovm(resumed))
        await node.reports.next(Started)
        for spec in (resumed, second):
            await node.terminate(spec)
            await node.reports.next(Terminated)
    one, other, again = proven
    assert one[0] == again[0] == Given.of(first.microvm_id)
    assert one[1].boot_id == again[1].boot_id != other[1].boot_id
    assert len({found.sample for _, found in proven}) == 3


async def started_and_ended(node: RunningNode) -> None:
    spec = spec_of()
    await node.start(spec)
    await node.reports.next(Started)
    await node.terminate(spec)
    await node.reports.next(Terminated)


@pytest.mark.parametrize("name", ["hostname", "machine_id", "boot_id"])
async def test_a_guest_that_is_another_is_not_started(
    name: str, lab: NodeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Given.of(new_microvm_id())

    def connecting(
        agent: Path, limit: float, **given: str
    ) -> AbstractAsyncContextManager[tuple[GuestClient, Identity]]:
        return connect_restored(agent, limit, **{**given, name: getattr(other, name)})

    monkeypatch.setattr(bring_up, "connect_restored", connecting)
    # Asked once only, as where the clock is right at once.
    monkeypatch.setattr(bring_up, "CLOCK_TRIES", 0)
    async with lab.node() as node:
        spec = spec_of()
        await node.start(spec)
        died = await node.reports.next(Died)
        assert getattr(other, name) in died.reason
        assert node.pid_of(spec) is None
        # Nothing else tells it.
        monkeypatch.setattr(Uniqueness, "prove", lambda *_: None)
        await started_and_ended(node)


async def test_a_guest_with_random_numbers_of_another_is_not_started(lab: NodeLab) -> None:
    class Forgetful(Uniqueness):
        """Takes every sample for one that another guest had shown."""

        def prove(self, given: Given, found: Identity) -> None:
            self._samples[bytes.fromhex(found.sample)] = "microvm-other"
            super().prove(given, found)

    class Trusting(Uniqueness):
        def prove(self, given: Given, found: Identity) -> None:
            """Whoever it is."""

    async with lab.node() as node:
        object.__setattr__(node.equipment, "uniqueness", Forgetful())
        spec = spec_of()
        await node.start(spec)
        died = await node.reports.next(Died)
        assert "random numbers are those that microvm-other had" in died.reason
        assert node.pid_of(spec) is None
        object.__setattr__(node.equipment, "uniqueness", Trusting())
        await started_and_ended(node)
