"""Network connectors: create, get, list, update, versions, delete."""

import time
from typing import Any

from tests.clients.exercises.images import echoed
from tests.clients.exercises.registry import World, exercise
from tests.clients.live import ACCOUNT, REGION
from tests.clients.outcome import Client, instant

ROLE = f"arn:aws:iam::{ACCOUNT}:role/operator"
EGRESS = {
    "SubnetIds": ["subnet-15c2f37d", "subnet-0"],
    "SecurityGroupIds": ["sg-f0e6979f"],
    "NetworkProtocol": "IPv4",
    "AssociatedComputeResourceTypes": ["MicroVm"],
}
NOT_FOUND = (404, "ResourceNotFoundException")
INVALID = (400, "InvalidParameterValueException")
CONFLICT = (409, "ResourceConflictException")


def request(world: World, **members: Any) -> dict[str, Any]:
    """A client token is demanded although the model calls it optional; clients fill it in."""
    return {
        "Name": world.name("net"),
        "Configuration": {"VpcEgressConfiguration": EGRESS},
        "OperatorRole": ROLE,
        **members,
    }


def connector(world: World, **members: Any) -> dict[str, Any]:
    """An ACTIVE one, as its creation answered."""
    made = world.arrange.call("CreateNetworkConnector", **request(world, **members))
    assert made.status == 202, made
    settled(world, made.document["Id"])
    return made.document


def settled(world: World, identifier: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        found = world.arrange.call("GetNetworkConnector", Identifier=identifier).document
        if found["State"] == "ACTIVE" and found.get("LastUpdateStatus") != "InProgress":
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


@exercise("CreateNetworkConnector")
def create(aws: Client, world: World) -> None:
    sent = request(world)
    made = aws.call("CreateNetworkConnector", **sent)
    assert made.status == 202
    echoed(sent, made.document)
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:{made.document['Id']}"
    assert (made.document["Arn"], made.document["State"]) == (arn, "PENDING")
    egress: dict[str, Any] = {**EGRESS, "NetworkProtocol": "DualStack"}
    if aws.model.known("NetworkConnectorVpcEgressConfiguration", {"ElasticIpConfiguration": {}}):
        egress["ElasticIpConfiguration"] = {"Type": "None"}
    sent = request(world, Configuration={"VpcEgressConfiguration": egress})
    rest = {"ClientToken": sent["Name"], "Tags": {"team": "a"}}
    made = aws.call("CreateNetworkConnector", **sent, **rest)
    echoed(sent, made.document)
    again = aws.call("CreateNetworkConnector", **sent, **rest)
    assert again.document["Id"] == made.document["Id"]
    other = aws.call("CreateNetworkConnector", **sent | {"Name": "other"}, **rest)
    assert other.refusal == CONFLICT
    assert aws.call("CreateNetworkConnector", **sent).refusal == CONFLICT
    assert sent.pop("OperatorRole") == ROLE
    assert aws.call("CreateNetworkConnector", **sent | {"Name": "x"}).refusal == INVALID


@exercise("GetNetworkConnector")
def get(aws: Client, world: World) -> None:
    made = connector(world)
    for identifier in (made["Id"], made["Name"], made["Arn"]):
        found = aws.call("GetNetworkConnector", Identifier=identifier)
        assert found.status == 200
        assert (found.document["Id"], found.document["State"]) == (made["Id"], "ACTIVE")
        assert found.document["StateReason"] == "Initial creation"
        assert abs(instant(found.document["LastModified"]) - time.time()) < 60
    old = aws.call("GetNetworkConnector", Identifier=f"{made['Arn']}:1")
    assert "LatestVersion" not in old.document
    assert aws.call("GetNetworkConnector", Identifier="ghost").refusal == NOT_FOUND


@exercise("ListNetworkConnectors")
def list_connectors(aws: Client, world: World) -> None:
    made = [connector(world)["Name"] for _ in range(2)][::-1]
    assert aws.call("ListNetworkConnectors").status == 200
    first = aws.call("ListNetworkConnectors", State="ACTIVE", MaxItems=1)
    (item,) = first.document["NetworkConnectors"]
    assert (item["Name"], item["Type"]) == (made[0], "VPC_EGRESS")
    assert abs(instant(item["LastModified"]) - time.time()) < 60
    following = aws.call(
        "ListNetworkConnectors", State="ACTIVE", MaxItems=1, Marker=first.document["NextMarker"]
    )
    assert [item["Name"] for item in following.document["NetworkConnectors"]] == made[1:]
    paged = [item["Name"] for item in aws.items("ListNetworkConnectors", 1)]
    assert paged[:2] == made
    assert aws.call("ListNetworkConnectors", Marker="made-up").refusal == INVALID


@exercise("UpdateNetworkConnector")
def update(aws: Client, world: World) -> None:
    made = connector(world)
    same = aws.call("UpdateNetworkConnector", Identifier=made["Id"], OperatorRole=ROLE)
    assert same.status == 202
    assert same.document["LastUpdateStatusReason"] == "No configuration changes detected"
    whole = {
        "Configuration": {"VpcEgressConfiguration": EGRESS | {"NetworkProtocol": "DualStack"}},
        "OperatorRole": f"{ROLE}-2",
        "ClientToken": made["Name"],
    }
    changed = aws.call("UpdateNetworkConnector", Identifier=made["Name"], **whole)
    assert changed.status == 202
    assert changed.document["LastUpdateStatus"] == "InProgress"
    echoed({k: v for k, v in whole.items() if k != "ClientToken"}, changed.document)
    settled(world, made["Id"])
    absent = aws.call("UpdateNetworkConnector", Identifier="ghost", OperatorRole=ROLE)
    assert absent.refusal == NOT_FOUND


@exercise("ListNetworkConnectorVersions")
def list_versions(aws: Client, world: World) -> None:
    made = connector(world)
    world.arrange.call("UpdateNetworkConnector", Identifier=made["Id"], OperatorRole=f"{ROLE}-2")
    settled(world, made["Id"])
    listed = aws.call("ListNetworkConnectorVersions", Identifier=made["Id"])
    assert listed.status == 200
    assert [item["Version"] for item in listed.document["NetworkConnectorVersions"]] == [2, 1]
    first = aws.call(
        "ListNetworkConnectorVersions", Identifier=made["Name"], State="ACTIVE", MaxItems=1
    )
    following = aws.call(
        "ListNetworkConnectorVersions",
        Identifier=made["Name"],
        State="ACTIVE",
        Marker=first.document["NextMarker"],
    )
    assert [item["Version"] for item in following.document["NetworkConnectorVersions"]] == [1]
    paged = aws.items("ListNetworkConnectorVersions", 1, Identifier=made["Arn"])
    assert [item["Version"] for item in paged] == [2, 1]
    assert aws.call("ListNetworkConnectorVersions", Identifier="ghost").refusal == NOT_FOUND


@exercise("DeleteNetworkConnector")
def delete(aws: Client, world: World) -> None:
    made = connector(world)
    latest = aws.call("DeleteNetworkConnector", Identifier=f"{made['Arn']}:1")
    assert latest.refusal == CONFLICT
    gone = aws.call("DeleteNetworkConnector", Identifier=made["Id"])
    assert (gone.status, gone.document["State"]) == (202, "DELETING")
    world.until_gone("GetNetworkConnector", Identifier=made["Id"])
    assert aws.call("DeleteNetworkConnector", Identifier=made["Id"]).status == 202
    assert aws.call("DeleteNetworkConnector", Identifier="ghost").refusal == NOT_FOUND
