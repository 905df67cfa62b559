"""The node agent: whose command it is, what it sweeps, and how builds end. On a real node."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

import pytest

from microvmd.messages.node import (
    AdoptMicrovm,
    BuildFailed,
    BuildStarted,
    BuildSucceeded,
    BuildVersion,
    ChangeEgress,
    ConnectorProvisioned,
    ConnectorRevoked,
    DeleteVersion,
    Died,
    EgressChanged,
    Inventory,
    LogTarget,
    ProvisionConnector,
    ResumeMicrovm,
    RevokeConnector,
    Started,
    Suspended,
    SuspendMicrovm,
    Terminated,
    TerminateMicrovm,
    VersionDeleted,
    VersionKey,
)
from microvmd.model.egress import (
    INTERNET,
    NAMED_PORTS,
    NOTHING,
    Egress,
    Protocol,
    Reach,
    grant_of,
)
from microvmd.model.identifiers import new_microvm_id
from microvmd.model.image import SnapshotSizes, VersionConfig
from microvmd.model.microvm import Phase
from microvmd.node.agent import BuildRefused, NodeAgent
from microvmd.node.bring_up import Equipment
from microvmd.node.server import _account_of
from tests.nodelab import ACCOUNT, IMAGE_ARN, VERSION, NodeLab, Reports, ask, spec_of

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

SIZES = SnapshotSizes(1, 2, 3)


@dataclass
class PlayedBuilder:
    """Builds what the test lets it build."""

    begun: asyncio.Queue[BuildVersion] = field(default_factory=asyncio.Queue)
    results: asyncio.Queue[SnapshotSizes | Exception] = field(default_factory=asyncio.Queue)

    async def build(self, command: BuildVersion) -> SnapshotSizes:
        self.begun.put_nowait(command)
        result = await self.results.get()
        if isinstance(result, Exception):
            raise result
        return result


def build(number: str) -> BuildVersion:
    config = VersionConfig("base", "role", "s3://b/k")
    target = LogTarget("build", number)
    return BuildVersion(
        VersionKey(ACCOUNT, "new", number), f"b-{number}", IMAGE_ARN, config, target
    )


@dataclass(frozen=True)
class Site:
    """A node whose builds the test plays."""

    equipment: Equipment
    builder: PlayedBuilder
    agent: NodeAgent
    reports: Reports


@asynccontextmanager
async def site(lab: NodeLab) -> AsyncIterator[Site]:
    builder, reports = PlayedBuilder(), Reports()
    async with (
        lab.equipment() as equipment,
        NodeAgent(equipment, builder, reports, concurrent_builds=1) as agent,
    ):
        yield Site(equipment, builder, agent, reports)


async def test_commands_for_what_the_node_does_not_hold(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        unknown = spec_of()
        await node.agent.send(SuspendMicrovm(unknown.microvm_id, 4))
        assert (await node.reports.next(Died)).generation == 4
        await node.agent.send(TerminateMicrovm(unknown.microvm_id, 4))
        assert await node.reports.next(Terminated) == Terminated(unknown.microvm_id, 4)


async def test_commands_of_an_older_generation_are_dropped(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of(generation=2)
        await node.start(spec)
        address = (await node.reports.next(Started)).edge_address
        await node.terminate(replace(spec, generation=1))
        await node.agent.send(SuspendMicrovm(spec.microvm_id, 1))
        assert (await node.reports.next(Died)).generation == 1
        assert await ask(address, "count") == "1"
        await node.terminate(spec)
        assert (await node.reports.next(Terminated)).generation == 2


async def test_the_next_generation_waits_until_the_former_has_left(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of()
        await node.start(spec)
        await node.reports.next(Started)
        for generation in range(2, 5):
            await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))
            await node.reports.next(Suspended)
            # At once: the network of the former is still being taken down.
            spec = replace(spec, generation=generation)
            await node.agent.send(ResumeMicrovm(spec))
            await node.reports.next(Started)
        await node.terminate(spec)
        await node.reports.next(Terminated)
        assert node.agent.task_of(spec.microvm_id) is None


async def test_a_sweep_ends_what_no_record_owns(node_lab: NodeLab) -> None:
    kept, lost = spec_of(), spec_of()
    async with node_lab.node() as node:
        for spec in (kept, lost):
            await node.start(spec)
            await node.reports.next(Started)
        half = node.equipment.paths.tmp / "half"
        half.touch()
    async with node_lab.node() as node:
        inventory = Inventory(frozenset({kept.microvm_id}), frozenset({VERSION}))
        await node.agent.sweep(inventory)
        assert node.pid_of(lost) is None
        assert not node.equipment.paths.microvm(lost.microvm_id).directory.exists()
        assert not half.exists()
        assert node.equipment.paths.image(VERSION).memory.exists()
        assert node.pid_of(kept) is not None

        # A new one beside the one that waits for its adoption gets a user id of its own.
        other = spec_of()
        await node.start(other)
        await node.reports.next(Started)
        await node.agent.send(AdoptMicrovm(kept, Phase.RUNNING))
        assert await ask((await node.reports.next(Started)).edge_address, "count") == "1"
        for spec in (kept, other):
            await node.terminate(spec)
            await node.reports.next(Terminated)


async def test_terminate_of_a_vmm_that_was_not_adopted(node_lab: NodeLab) -> None:
    spec = spec_of()
    async with node_lab.node() as node:
        await node.start(spec)
        await node.reports.next(Started)
    async with node_lab.node() as node:
        await node.terminate(spec)
        await node.reports.next(Terminated)
        assert node.pid_of(spec) is None
        assert not node.equipment.paths.microvm(spec.microvm_id).directory.exists()


async def test_connectors_are_provisioned_and_taken_away(node_lab: NodeLab) -> None:
    egress = Egress(reaches=(Reach(grant_of("nc-1", 1), IPv4Network("10.99.0.0/16")),))
    spec = spec_of(egress=egress)
    async with node_lab.node() as node:
        await node.agent.send(ProvisionConnector("nc-1", 1, egress))
        told = await node.reports.next(ConnectorProvisioned)
        assert told == ConnectorProvisioned("nc-1", 1)
        await node.start(spec)
        await node.reports.next(Started)
        (network,) = node.equipment.networks._used
        assert network.egress == egress
        await node.agent.send(RevokeConnector("nc-1", (1, 2)))
        assert await node.reports.next(ConnectorRevoked) == ConnectorRevoked("nc-1", (1, 2))
        assert network.egress == NOTHING
        await node.terminate(spec)
        await node.reports.next(Terminated)


async def test_what_a_microvm_reaches_is_changed_while_it_lives(node_lab: NodeLab) -> None:
    spec = spec_of(egress=INTERNET)
    named = Egress(
        reaches=(Reach("nc-1:1", IPv4Network("0.0.0.0/0"), Protocol.TCP, NAMED_PORTS, ("a.test",)),)
    )
    async with node_lab.node() as node:

        async def change(egress: Egress, generation: int = 1) -> None:
            await node.agent.send(ChangeEgress(spec.microvm_id, generation, egress))

        # Before it is up, which it then is with what was said last.
        await node.start(spec)
        await change(NOTHING)
        assert await node.reports.next(EgressChanged) == EgressChanged(spec.microvm_id, 1)
        await node.reports.next(Started)
        (network,) = node.equipment.networks._used
        assert network.egress == NOTHING

        await change(named)
        assert (await node.reports.next(EgressChanged)).error is None
        assert network.egress == named
        assert sorted(network._guard.allowed or ()) == ["a.test"]
        await change(INTERNET, generation=2)
        assert (await node.reports.next(EgressChanged)).generation == 2
        assert network.egress == named

        # Its account is what the node's policy holds a change to.
        assert _account_of(node.agent, ChangeEgress(spec.microvm_id, 1, named)) == ACCOUNT
        assert _account_of(node.agent, ChangeEgress(new_microvm_id(), 1, named)) is None
        await node.terminate(spec)
        await node.reports.next(Terminated)
        await change(INTERNET)
        assert (await node.reports.next(EgressChanged)).error is None
        assert network._guard.allowed is None


async def test_how_builds_end(node_lab: NodeLab) -> None:
    async with site(node_lab) as s:
        outcomes: list[SnapshotSizes | Exception] = [
            SIZES,
            BuildRefused("CONTAINER_BUILD_FAILED: no", code_bytes=5),
            KeyError("ours"),
        ]
        for number, outcome in enumerate(outcomes, 1):
            s.builder.results.put_nowait(outcome)
            await s.agent.send(build(f"{number}.0"))
        await s.reports.next(BuildStarted)
        assert (await s.reports.next(BuildSucceeded)).sizes == SIZES
        await s.reports.next(BuildStarted)
        refused = await s.reports.next(BuildFailed)
        assert refused.reason == "CONTAINER_BUILD_FAILED: no"
        assert refused.sizes == SnapshotSizes(code=5)
        await s.reports.next(BuildStarted)
        crashed = await s.reports.next(BuildFailed)
        assert crashed.reason.startswith("INTERNAL_PLATFORM_ERROR: ")
        assert "ours" not in crashed.reason


async def test_builds_wait_for_their_turn_and_end_with_the_node(node_lab: NodeLab) -> None:
    async with site(node_lab) as s, asyncio.timeout(10):
        await s.agent.send(build("1.0"))
        await s.agent.send(build("2.0"))
        assert (await s.builder.begun.get()).version.number == "1.0"
        assert s.builder.begun.empty()
        s.builder.results.put_nowait(SIZES)
        assert (await s.builder.begun.get()).version.number == "2.0"


async def test_files_of_a_version_go_once(node_lab: NodeLab) -> None:
    async with site(node_lab) as s:
        version = VersionKey(ACCOUNT, "new", "3.0")
        directory = s.equipment.paths.image(version).directory
        directory.mkdir(parents=True)
        (directory / "memory").touch()
        for _ in range(2):
            await s.agent.send(DeleteVersion(version))
            assert await s.reports.next(VersionDeleted) == VersionDeleted(version)
        assert not directory.exists()
