"""Connectors on the wire: the members of each answer, nothing null, names of errors."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from microvmd.api.errors import wire_error
from microvmd.api.operations import Operation, load_operations
from microvmd.api.serialize import serialize_response
from microvmd.messages.node import (
    ConnectorProvisioned,
    ConnectorRevoked,
    ProvisionConnector,
    RevokeConnector,
)
from microvmd.model.errors import Conflict, InvalidParameter, QuotaExceeded, ValidationError
from tests.unit.api.handling import Api, handled
from tests.unit.control.plane import ACCOUNT, REGION

pytestmark = pytest.mark.anyio

EGRESS = {
    "SubnetIds": ["subnet-1"],
    "SecurityGroupIds": ["sg-1"],
    "NetworkProtocol": "IPv4",
    "AssociatedComputeResourceTypes": ["MicroVm"],
}
CREATE: dict[str, Any] = {
    "Name": "net",
    "Configuration": {"VpcEgressConfiguration": EGRESS},
    "OperatorRole": "arn:aws:iam::000000000000:role/operator",
    "ClientToken": "t",
}
NAMES = {"Arn", "Name", "Id"}
CONFIGURED = NAMES | {"Configuration", "OperatorRole", "State"}
VERSION = {"VersionArn", "Version"}
LATEST = {"LatestVersionArn", "LatestVersion"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with handled(tmp_path) as made:
        yield made


async def played(api: Api) -> None:
    for command in api.plane.node.commands:
        match command:
            case ProvisionConnector(connector_id=connector_id, number=number):
                await api.plane.connectors.report(ConnectorProvisioned(connector_id, number))
            case RevokeConnector(connector_id=connector_id, numbers=numbers):
                await api.plane.connectors.report(ConnectorRevoked(connector_id, numbers))
    api.plane.node.commands.clear()


def told(answer: dict[str, Any]) -> set[str]:
    return {name for name, value in answer.items() if value is not None}


async def test_members_of_every_answer(api: Api) -> None:
    made = await api("CreateNetworkConnector", **CREATE)
    assert told(made) == CONFIGURED | VERSION
    assert made["Id"].startswith("nc-")
    assert made["Arn"] == f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:{made['Id']}"
    assert (made["Version"], made["VersionArn"]) == (1, f"{made['Arn']}:1")
    assert made["State"] == "PENDING"
    await played(api)
    found = await api("GetNetworkConnector", Identifier="net")
    assert told(found) == CONFIGURED | LATEST | {"Version", "StateReason", "LastModified"}
    assert (found["State"], found["StateReason"]) == ("ACTIVE", "Initial creation")
    same = await api("UpdateNetworkConnector", Identifier="net")
    assert told(same) == CONFIGURED | VERSION | {
        "LastUpdateStatus",
        "LastUpdateStatusReason",
        "LastModified",
    }
    assert same["LastUpdateStatusReason"] == "No configuration changes detected"
    more = {"VpcEgressConfiguration": {**EGRESS, "SubnetIds": ["subnet-1", "subnet-2"]}}
    begun = await api("UpdateNetworkConnector", Identifier="net", Configuration=more)
    assert (begun["Version"], begun["LastUpdateStatus"]) == (2, "InProgress")
    await played(api)
    found = await api("GetNetworkConnector", Identifier="net")
    assert (found["LatestVersion"], found["LastUpdateStatus"]) == (2, "Successful")
    old = await api("GetNetworkConnector", Identifier=f"{made['Arn']}:1")
    assert told(old) == CONFIGURED | VERSION | {"LastModified"}
    listed = await api("ListNetworkConnectors")
    assert [told(item) for item in listed["NetworkConnectors"]] == [
        NAMES | LATEST | {"Type", "State", "LastModified"}
    ]
    versions = await api("ListNetworkConnectorVersions", Identifier="net")
    assert [item["Version"] for item in versions["NetworkConnectorVersions"]] == [2, 1]
    one = await api("DeleteNetworkConnector", Identifier=f"{made['Arn']}:1")
    assert told(one) == CONFIGURED | VERSION
    gone = await api("DeleteNetworkConnector", Identifier="net")
    assert (told(gone), gone["State"]) == (CONFIGURED, "DELETING")
    await played(api)
    again = await api("DeleteNetworkConnector", Identifier="net")
    assert told(again) == NAMES | {"State"}


async def test_pages_and_filters(api: Api) -> None:
    for number in range(2):
        await api(
            "CreateNetworkConnector", **{**CREATE, "Name": f"n{number}", "ClientToken": f"{number}"}
        )
    first = await api("ListNetworkConnectors", MaxItems=1, State="PENDING")
    rest = await api(
        "ListNetworkConnectors", MaxItems=1, State="PENDING", Marker=first["NextMarker"]
    )
    names = [item["Name"] for page in (first, rest) for item in page["NetworkConnectors"]]
    assert (names, rest["NextMarker"]) == (["n1", "n0"], None)


async def test_an_elastic_ip_is_echoed(api: Api) -> None:
    elastic = {**EGRESS, "ElasticIpConfiguration": {"Type": "ServiceManaged"}}
    request = {**CREATE, "Configuration": {"VpcEgressConfiguration": elastic}}
    made = await api("CreateNetworkConnector", **request)
    egress = made["Configuration"]["VpcEgressConfiguration"]
    assert egress["ElasticIpConfiguration"] == {"Type": "ServiceManaged"}


@pytest.mark.parametrize(
    ("error", "name", "status"),
    [
        (InvalidParameter("x"), "InvalidParameterValueException", 400),
        (ValidationError("x"), "ValidationException", 400),
        (Conflict("x"), "ResourceConflictException", 409),
        (QuotaExceeded("x"), "NetworkConnectorLimitExceededException", 400),
    ],
)
def test_names_of_errors(
    operations: dict[str, Operation], error: Any, name: str, status: int
) -> None:
    wire = wire_error(error, operations["CreateNetworkConnector"])
    assert (wire.code, wire.status, wire.body) == (name, status, {"message": "x"})


async def test_what_is_unset_is_left_out_and_times_are_iso(api: Api) -> None:
    await api("CreateNetworkConnector", **CREATE)
    operation = next(o for o in load_operations() if o.name == "GetNetworkConnector")
    body = serialize_response(operation, await api("GetNetworkConnector", Identifier="net")).body
    assert b"null" not in body
    assert b'"LastModified":"1970-01-01T00:16:40.000Z"' in body
