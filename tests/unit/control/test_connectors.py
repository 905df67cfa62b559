"""Decisions about network connectors: life, versions, names, tokens, limits, restarts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from microvmd.control.connectors import (
    CONNECTORS_PAGE,
    DELETED_KEPT_S,
    Connectors,
    ConnectorView,
)
from microvmd.control.paging import Cursors
from microvmd.messages.node import (
    ConnectorProvisioned,
    ConnectorRevoked,
    ProvisionConnector,
    RevokeConnector,
)
from microvmd.model.egress import Egress, EgressMap, MappedSubnet, Reach
from microvmd.model.errors import (
    Conflict,
    InvalidParameter,
    NotFound,
    QuotaExceeded,
    ValidationError,
)
from microvmd.model.vpc_connector import (
    ConnectorLimits,
    ConnectorState,
    FailureCode,
    UpdateStatus,
)
from tests.unit.control.plane import ACCOUNT, REGION, Plane, plane

pytestmark = pytest.mark.anyio

OTHER = "111122223333"
ROLE = "arn:aws:iam::000000000000:role/operator"
NETWORK = IPv4Network("10.1.0.0/16")
MAPPED = EgressMap({"subnet-1": MappedSubnet((NETWORK,))})


def request(name: str = "net", /, *, subnet: str = "subnet-1", **changes: Any) -> dict[str, Any]:
    asked = {
        "Name": name,
        "Configuration": configuration(subnet),
        "OperatorRole": ROLE,
        "ClientToken": f"token-{name}",
        **changes,
    }
    return {key: value for key, value in asked.items() if value is not None}


def configuration(subnet: str) -> dict[str, Any]:
    return {
        "VpcEgressConfiguration": {
            "SubnetIds": [subnet],
            "NetworkProtocol": "IPv4",
            "AssociatedComputeResourceTypes": ["MicroVm"],
        }
    }


class Desk:
    """Connectors of a plane, and a node that the test plays."""

    def __init__(self, made: Plane, connectors: Connectors) -> None:
        self.plane = made
        self.connectors = connectors

    async def played(self) -> None:
        """The node does whatever it was told, and says so."""
        while self.plane.node.commands:
            match self.plane.node.commands.pop(0):
                case ProvisionConnector(connector_id=connector_id, number=number):
                    await self.connectors.report(ConnectorProvisioned(connector_id, number))
                case RevokeConnector(connector_id=connector_id, numbers=numbers):
                    await self.connectors.report(ConnectorRevoked(connector_id, numbers))

    async def active(self, name: str = "net", **changes: Any) -> ConnectorView:
        made = await self.connectors.create(ACCOUNT, request(name, **changes))
        await self.played()
        return await self.connectors.get(ACCOUNT, made.connector.connector_id)

    async def updated(self, name: str, subnet: str, **changes: Any) -> ConnectorView:
        asked = {"Identifier": name, "Configuration": configuration(subnet), **changes}
        return await self.connectors.update(ACCOUNT, asked)


@asynccontextmanager
async def desk_at(directory: Path, **options: Any) -> AsyncIterator[Desk]:
    async with plane(directory) as made:
        connectors = Connectors(
            made.store, made.node, Cursors(b"k" * 32), made.clock, REGION, **options
        )
        yield Desk(made, connectors)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_at(tmp_path, networks=MAPPED) as made:
        yield made


async def test_life(desk: Desk) -> None:
    made = await desk.connectors.create(ACCOUNT, request())
    connector = made.connector
    assert connector.state is ConnectorState.PENDING
    assert connector.arn == (
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:{connector.connector_id}"
    )
    grant = f"{connector.connector_id}:1"
    told = ProvisionConnector(connector.connector_id, 1, Egress(reaches=(Reach(grant, NETWORK),)))
    assert desk.plane.node.commands == [told]
    await desk.played()
    for identifier in ("net", connector.connector_id, connector.arn, f"{connector.arn}:1"):
        found = await desk.connectors.get(ACCOUNT, identifier)
        assert found.connector.state is ConnectorState.ACTIVE
        assert found.qualified is identifier.endswith(":1")
    deleted = await desk.connectors.delete(ACCOUNT, "net")
    assert deleted.connector.state is ConnectorState.DELETING
    assert (await desk.connectors.get(ACCOUNT, "net")).connector.state is ConnectorState.DELETING
    await desk.connectors.delete(ACCOUNT, "net")
    assert desk.plane.node.commands == [RevokeConnector(connector.connector_id, (1,))]
    await desk.played()
    with pytest.raises(NotFound):
        await desk.connectors.get(ACCOUNT, connector.arn)
    for identifier in ("net", connector.arn, f"{connector.arn}:1"):
        again = await desk.connectors.delete(ACCOUNT, identifier)
        assert again.connector.connector_id == connector.connector_id
    assert desk.plane.node.commands == []


async def test_a_delete_is_remembered_for_a_day(desk: Desk) -> None:
    await desk.active()
    await desk.connectors.delete(ACCOUNT, "net")
    await desk.played()
    desk.plane.clock.now += DELETED_KEPT_S + 1
    await desk.active("other")
    with pytest.raises(NotFound):
        await desk.connectors.delete(ACCOUNT, "net")
    with pytest.raises(NotFound):
        await desk.connectors.delete(ACCOUNT, "never")


async def test_what_a_node_cannot_enforce_fails(desk: Desk) -> None:
    made = await desk.connectors.create(ACCOUNT, request())
    connector_id = made.connector.connector_id
    await desk.connectors.report(ConnectorProvisioned(connector_id, 1, "nft: no"))
    found = (await desk.connectors.get(ACCOUNT, "net")).connector
    assert found.state is ConnectorState.FAILED
    assert found.failure is not None
    assert found.failure.code is FailureCode.INTERNAL_ERROR
    assert "nft" not in found.failure.reason
    await desk.connectors.delete(ACCOUNT, "net")


async def test_a_delete_that_fails_can_be_repeated(desk: Desk) -> None:
    connector_id = (await desk.active()).connector.connector_id
    await desk.connectors.delete(ACCOUNT, "net")
    await desk.connectors.report(ConnectorRevoked(connector_id, (1,), "busy"))
    found = (await desk.connectors.get(ACCOUNT, "net")).connector
    assert (found.state, found.failure is None) == (ConnectorState.DELETE_FAILED, False)
    desk.plane.node.commands.clear()
    await desk.connectors.delete(ACCOUNT, "net")
    await desk.played()
    with pytest.raises(NotFound):
        await desk.connectors.get(ACCOUNT, "net")


async def test_a_pending_connector_can_be_neither_deleted_nor_updated(desk: Desk) -> None:
    await desk.connectors.create(ACCOUNT, request())
    with pytest.raises(Conflict):
        await desk.connectors.delete(ACCOUNT, "net")
    with pytest.raises(Conflict):
        await desk.updated("net", "subnet-2")


@pytest.mark.parametrize(
    ("left_out", "text"),
    [
        ("ClientToken", "ClientToken is a required field"),
        ("OperatorRole", "NetworkConnectorOperatorRole is required for VPC_EGRESS connector type"),
    ],
)
async def test_members_that_the_service_wants(desk: Desk, left_out: str, text: str) -> None:
    wanting: dict[str, Any] = {left_out: None}
    with pytest.raises(InvalidParameter, match=f"^{text}$"):
        await desk.connectors.create(ACCOUNT, request(**wanting))


async def test_names_are_unique_until_the_connector_is_gone(desk: Desk) -> None:
    first = (await desk.active()).connector
    with pytest.raises(Conflict, match="already exists"):
        await desk.connectors.create(ACCOUNT, request(ClientToken="another"))
    assert await desk.connectors.create(OTHER, request())
    await desk.connectors.delete(ACCOUNT, "net")
    with pytest.raises(Conflict, match="already exists"):
        await desk.connectors.create(ACCOUNT, request(ClientToken="another"))
    await desk.played()
    second = (await desk.active(ClientToken="another")).connector
    assert second.connector_id != first.connector_id
    assert (await desk.connectors.delete(ACCOUNT, "net")).connector == (
        await desk.connectors.get(ACCOUNT, "net")
    ).connector


async def test_tokens_replay_conflict_and_are_forgotten(desk: Desk) -> None:
    first = (await desk.active()).connector
    again = await desk.connectors.create(ACCOUNT, request())
    assert again.connector == first
    with pytest.raises(Conflict, match="client token"):
        await desk.connectors.create(ACCOUNT, request(subnet="subnet-2"))
    await desk.connectors.delete(ACCOUNT, "net")
    await desk.played()
    fresh = await desk.connectors.create(ACCOUNT, request())
    assert fresh.connector.connector_id != first.connector_id


async def test_an_update_makes_a_version(desk: Desk) -> None:
    connector = (await desk.active()).connector
    begun = await desk.updated("net", "subnet-2", ClientToken="u")
    assert (begun.version.number, begun.connector.update_status) == (2, UpdateStatus.IN_PROGRESS)
    during = await desk.connectors.get(ACCOUNT, "net")
    assert (during.version.number, during.version.config.subnets) == (1, ("subnet-1",))
    with pytest.raises(Conflict, match="in progress"):
        await desk.updated("net", "subnet-3")
    await desk.played()
    after = await desk.connectors.get(ACCOUNT, "net")
    assert (after.version.number, after.version.config.subnets) == (2, ("subnet-2",))
    assert after.connector.update_status is UpdateStatus.SUCCESSFUL
    old = await desk.connectors.get(ACCOUNT, f"{connector.arn}:1")
    assert old.version.config.subnets == ("subnet-1",)
    replay = await desk.updated("net", "subnet-2", ClientToken="u")
    assert (replay.version.number, desk.plane.node.commands) == (2, [])
    with pytest.raises(Conflict, match="client token"):
        await desk.updated("net", "subnet-3", ClientToken="u")
    listed = await desk.connectors.list_versions(ACCOUNT, "net")
    assert [view.version.number for view in listed.items] == [2, 1]


async def test_an_update_without_change_makes_none(desk: Desk) -> None:
    await desk.active()
    for asked in ({"Identifier": "net"}, {"Identifier": "net", "OperatorRole": ROLE}):
        same = await desk.connectors.update(ACCOUNT, asked)
        assert same.version.number == 1
        assert same.connector.update_reason == "No configuration changes detected"
    assert desk.plane.node.commands == []
    role = await desk.connectors.update(ACCOUNT, {"Identifier": "net", "OperatorRole": f"{ROLE}2"})
    assert (role.version.number, role.version.operator_role) == (2, f"{ROLE}2")


async def test_an_update_that_fails_leaves_the_version_before(desk: Desk) -> None:
    connector = (await desk.active()).connector
    await desk.updated("net", "subnet-2")
    await desk.connectors.report(ConnectorProvisioned(connector.connector_id, 2, "no"))
    found = await desk.connectors.get(ACCOUNT, "net")
    assert (found.version.number, found.connector.update_status) == (1, UpdateStatus.FAILED)
    failed = await desk.connectors.list_versions(ACCOUNT, "net", state=ConnectorState.FAILED)
    assert [view.version.number for view in failed.items] == [2]
    desk.plane.node.commands.clear()
    await desk.updated("net", "subnet-3")
    await desk.played()
    assert (await desk.connectors.get(ACCOUNT, "net")).version.number == 3


async def test_updates_that_are_refused(desk: Desk) -> None:
    connector = (await desk.active()).connector
    with pytest.raises(InvalidParameter, match="must not name a version"):
        await desk.updated(f"{connector.arn}:1", "subnet-2")
    web = configuration("subnet-1")
    web["VpcEgressConfiguration"]["AssociatedComputeResourceTypes"] = ["WebFunction"]
    with pytest.raises(InvalidParameter, match="cannot be changed"):
        await desk.connectors.update(ACCOUNT, {"Identifier": "net", "Configuration": web})
    with pytest.raises(NotFound):
        await desk.updated("never", "subnet-1")


async def test_one_version_can_be_deleted_but_not_the_latest(desk: Desk) -> None:
    connector = (await desk.active()).connector
    await desk.updated("net", "subnet-2")
    await desk.played()
    with pytest.raises(Conflict, match="latest version"):
        await desk.connectors.delete(ACCOUNT, f"{connector.arn}:2")
    with pytest.raises(NotFound, match=f"{connector.arn}:3$"):
        await desk.connectors.delete(ACCOUNT, f"{connector.arn}:3")
    doomed = await desk.connectors.delete(ACCOUNT, f"{connector.arn}:1")
    assert doomed.number == 1
    await desk.connectors.delete(ACCOUNT, f"{connector.arn}:1")
    assert desk.plane.node.commands == [RevokeConnector(connector.connector_id, (1,))]
    await desk.played()
    with pytest.raises(NotFound, match=f"{connector.arn}:1$"):
        await desk.connectors.get(ACCOUNT, f"{connector.arn}:1")
    assert (await desk.connectors.delete(ACCOUNT, f"{connector.arn}:1")).version is None
    assert (await desk.connectors.get(ACCOUNT, "net")).version.number == 2


async def test_strict_mapping_tells_what_is_not_mapped(tmp_path: Path) -> None:
    strict = EgressMap(MAPPED.subnets, {}, strict=True)
    async with desk_at(tmp_path, networks=strict) as desk:
        failed = await desk.active(subnet="subnet-9")
        assert failed.connector.failure is not None
        assert failed.connector.failure.code is FailureCode.INVALID_SUBNET
        await desk.active("good")
        await desk.updated("good", "subnet-9")
        found = (await desk.connectors.get(ACCOUNT, "good")).connector
        assert found.update_code is FailureCode.INVALID_SUBNET


async def test_limits(tmp_path: Path) -> None:
    async with desk_at(tmp_path, limits=ConnectorLimits(connectors=1, versions=2)) as desk:
        await desk.active()
        with pytest.raises(QuotaExceeded):
            await desk.connectors.create(ACCOUNT, request("second"))
        await desk.connectors.create(OTHER, request("second"))
        await desk.updated("net", "subnet-2")
        await desk.played()
        with pytest.raises(QuotaExceeded):
            await desk.updated("net", "subnet-3")


async def test_pages(desk: Desk) -> None:
    for number in range(CONNECTORS_PAGE + 1):
        await desk.connectors.create(ACCOUNT, request(f"net-{number}"))
    first = await desk.connectors.list_connectors(ACCOUNT, max_items=100)
    assert len(first.items) == CONNECTORS_PAGE
    rest = await desk.connectors.list_connectors(ACCOUNT, marker=first.next_token)
    names = [connector.name for connector in (*first.items, *rest.items)]
    assert names == [f"net-{number}" for number in reversed(range(CONNECTORS_PAGE + 1))]
    assert rest.next_token is None
    pending = await desk.connectors.list_connectors(
        ACCOUNT, state=ConnectorState.PENDING, max_items=1
    )
    assert pending.next_token is not None
    for marker in ("x", pending.next_token):
        with pytest.raises(InvalidParameter, match="Marker"):
            await desk.connectors.list_connectors(ACCOUNT, marker=marker)
    nothing = await desk.connectors.list_connectors(ACCOUNT, state=ConnectorState.ACTIVE)
    assert nothing.items == []


async def test_pages_of_versions(desk: Desk) -> None:
    await desk.active()
    for number in (2, 3):
        await desk.updated("net", f"subnet-{number}")
        await desk.played()
    first = await desk.connectors.list_versions(ACCOUNT, "net", max_items=2)
    rest = await desk.connectors.list_versions(ACCOUNT, "net", max_items=2, marker=first.next_token)
    assert [view.version.number for view in (*first.items, *rest.items)] == [3, 2, 1]
    assert rest.next_token is None


async def test_tags(desk: Desk) -> None:
    connector = (await desk.active(Tags={"team": "a"})).connector
    await desk.connectors.set_tags(ACCOUNT, connector.arn, {"stage": "b"})
    await desk.connectors.remove_tags(ACCOUNT, connector.arn, ["team", "none"])
    assert await desk.connectors.tags(ACCOUNT, connector.arn) == {"stage": "b"}
    many = {f"t{number}": "" for number in range(50)}
    with pytest.raises(ValidationError, match="at most 50"):
        await desk.connectors.set_tags(ACCOUNT, connector.arn, many)
    with pytest.raises(ValidationError, match="at most 50"):
        await desk.connectors.create(ACCOUNT, request("many", Tags={**many, "one": "more"}))


async def test_another_account_sees_nothing(desk: Desk) -> None:
    connector = (await desk.active()).connector
    for identifier in ("net", connector.connector_id, connector.arn):
        with pytest.raises(NotFound):
            await desk.connectors.get(OTHER, identifier)
        with pytest.raises(NotFound):
            await desk.connectors.delete(OTHER, identifier)
        with pytest.raises(NotFound):
            await desk.connectors.set_tags(OTHER, identifier, {"a": "b"})
    assert (await desk.connectors.list_connectors(OTHER)).items == []


async def test_a_restart_goes_on(tmp_path: Path) -> None:
    async with desk_at(tmp_path) as desk:
        gone = (await desk.active("gone")).connector.connector_id
        kept = (await desk.active("kept")).connector
        await desk.updated("kept", "subnet-2")
        await desk.played()
        await desk.connectors.create(ACCOUNT, request("new"))
        await desk.connectors.delete(ACCOUNT, "gone")
        await desk.connectors.delete(ACCOUNT, f"{kept.arn}:1")
    async with desk_at(tmp_path) as desk:
        await desk.connectors.go_on_after_restart()
        assert RevokeConnector(gone, (1,)) in desk.plane.node.commands
        assert RevokeConnector(kept.connector_id, (1,)) in desk.plane.node.commands
        await desk.played()
        states = {c.name: c.state for c in (await desk.connectors.list_connectors(ACCOUNT)).items}
        assert states == {"new": ConnectorState.ACTIVE, "kept": ConnectorState.ACTIVE}
        listed = await desk.connectors.list_versions(ACCOUNT, "kept")
        assert [view.version.number for view in listed.items] == [2]
