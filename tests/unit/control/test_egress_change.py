"""What a MicroVM may reach is changed while it lives: recorded, told to the node, answered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from microvmd.control import egress_change
from microvmd.control.egress_change import EgressChanges
from microvmd.messages.node import (
    ChangeEgress,
    Command,
    EgressChanged,
    ResumeMicrovm,
    Started,
    StartMicrovm,
    Suspended,
)
from microvmd.model.egress import INTERNET, NOTHING, Egress, EgressMap, MappedSubnet
from microvmd.model.errors import Conflict, NotFound, ValidationError
from microvmd.model.microvm import MicroVm, Phase
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane
from tests.unit.control.test_egress import (
    MANAGED,
    NETWORKS,
    ONE,
    TWO,
    configuration,
    connect,
    played,
)
from tests.unit.control.test_egress import opened as reach

pytestmark = pytest.mark.anyio
NONE = MANAGED.replace("INTERNET_EGRESS", "NO_EGRESS")


@dataclass
class AnsweringNode:
    """Does what it is told at once, or says why not; silent where the error is empty."""

    changes: EgressChanges | None = None
    error: str | None = None
    told: list[ChangeEgress] = field(default_factory=list)

    async def send(self, command: Command) -> None:
        assert isinstance(command, ChangeEgress)
        assert self.changes is not None
        self.told.append(command)
        older = EgressChanged(command.microvm_id, command.generation - 1, "of an older one")
        await self.changes.report(older)
        if self.error != "":
            report = EgressChanged(command.microvm_id, command.generation, self.error)
            await self.changes.report(report)


@dataclass
class Setup:
    p: Plane
    node: AnsweringNode
    changes: EgressChanges

    async def running(self) -> MicroVm:
        made = await self.p.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        self.p.node.commands.clear()
        await self.p.microvms.report(Started(made.microvm_id, 1, "10.0.0.1"))
        return await self.p.microvms.get(ACCOUNT, made.microvm_id)

    async def suspended(self) -> MicroVm:
        made = await self.running()
        await self.p.microvms.suspend(ACCOUNT, made.microvm_id)
        await self.p.microvms.report(Suspended(made.microvm_id, 1))
        self.p.node.commands.clear()
        return await self.p.microvms.get(ACCOUNT, made.microvm_id)


@asynccontextmanager
async def setup(directory: Path) -> AsyncIterator[Setup]:
    async with plane(directory, networks=NETWORKS) as p:
        await p.built()
        node = AnsweringNode()
        node.changes = EgressChanges(p.store, node, p.microvms)
        yield Setup(p, node, node.changes)


async def test_a_change_is_recorded_and_made(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        arn = await connect(s.p)
        made = await s.running()
        assert await s.changes.show(ACCOUNT, made.microvm_id) == (made, INTERNET)
        after, egress = await s.changes.change(ACCOUNT, made.microvm_id, [arn])
        assert egress == Egress(reaches=(reach(arn, 1, ONE),))
        assert s.node.told == [ChangeEgress(made.microvm_id, 1, egress)]
        assert (after.egress, after.phase, after.edge_address) == (
            (arn,),
            Phase.RUNNING,
            "10.0.0.1",
        )
        assert await s.p.microvms.get(ACCOUNT, made.microvm_id) == after
        closed, egress = await s.changes.change(ACCOUNT, made.microvm_id, [NONE])
        assert (closed.egress, closed.grants, egress) == ((NONE,), (), NOTHING)


async def test_a_change_waits_for_the_resume(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        made = await s.suspended()
        await s.changes.change(ACCOUNT, made.microvm_id, [NONE])
        assert s.node.told == []
        await s.p.microvms.resume(ACCOUNT, made.microvm_id)
        (command,) = s.p.node.commands
        assert isinstance(command, ResumeMicrovm)
        assert command.spec.egress == NOTHING


async def test_what_is_refused(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        made = await s.running()
        for arn in ("NO_EGRESS", MANAGED.replace("INTERNET", "LAN")):
            with pytest.raises(ValidationError):
                await s.changes.change(ACCOUNT, made.microvm_id, [arn])
        gone = MANAGED.replace(":aws:network-connector:aws-network-connector:", ":000000000000:x:")
        with pytest.raises((NotFound, ValidationError)):
            await s.changes.change(ACCOUNT, made.microvm_id, [gone])
        for account in ("111122223333",):
            with pytest.raises(NotFound):
                await s.changes.change(account, made.microvm_id, [NONE])
            with pytest.raises(NotFound):
                await s.changes.show(account, made.microvm_id)
        await s.p.microvms.terminate(ACCOUNT, made.microvm_id)
        with pytest.raises(ValidationError, match="has been terminated"):
            await s.changes.change(ACCOUNT, made.microvm_id, [NONE])
        assert s.node.told == []


@pytest.mark.parametrize(("error", "said"), [("no nft", "no nft"), ("", "does not answer")])
async def test_a_node_that_cannot(
    error: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_change, "ANSWER_LIMIT", 0.01)
    async with setup(tmp_path) as s:
        s.node.error = error
        made = await s.running()
        with pytest.raises(Conflict, match=said):
            await s.changes.change(ACCOUNT, made.microvm_id, [NONE])
        assert (await s.changes.show(ACCOUNT, made.microvm_id))[1] == NOTHING


async def test_another_mapping_holds_for_what_lives_and_what_comes(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        arn = await connect(s.p)
        made = await s.running()
        await s.suspended()
        await s.changes.change(ACCOUNT, made.microvm_id, [arn])
        s.node.told.clear()
        networks = EgressMap({"subnet-1": MappedSubnet((TWO,)), "subnet-3": MappedSubnet((ONE,))})
        assert await s.changes.remap(networks, s.p.images, s.p.connectors) == 1
        (told,) = s.node.told
        assert told.egress == Egress(reaches=(reach(arn, 1, TWO),))
        other = await connect(s.p, "other", Configuration=configuration("subnet-3"))
        await s.p.microvms.run(
            ACCOUNT, {"imageIdentifier": IMAGE_ARN, "egressNetworkConnectors": [other]}
        )
        start = s.p.node.commands[-1]
        assert isinstance(start, StartMicrovm)
        assert start.spec.egress.reaches[0].network == IPv4Network("10.1.0.0/16")


async def test_a_node_that_cannot_remap_fails_no_other(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        await s.running()
        await s.running()
        s.node.error = "no nft"
        assert await s.changes.remap(EgressMap(), s.p.images, s.p.connectors) == 2
        await played(s.p)
