"""Network connectors by boto3, and their raw bodies against the recorded ones."""

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.clients.live import ACCOUNT, REGION, LiveApi
from tests.clients.raw import ask

pytestmark = pytest.mark.client

_PATH = "/2026-04-04/network-connectors"
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ROLE = f"arn:aws:iam::{ACCOUNT}:role/operator"
_EGRESS = {
    "AssociatedComputeResourceTypes": ["MicroVm"],
    "NetworkProtocol": "IPv4",
    "SecurityGroupIds": ["sg-f0e6979f"],
    "SubnetIds": ["subnet-15c2f37d"],
}


def _request(name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Configuration": {"VpcEgressConfiguration": _EGRESS},
        "OperatorRole": _ROLE,
        "ClientToken": f"token-{name}",
    }


def _until(ask: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 30
    while not wanted(found := ask()):
        assert time.monotonic() < deadline, found
    return found


def _active(api: LiveApi, connector_id: str) -> Any:
    return _until(
        lambda: ask(api, "GET", f"{_PATH}/{connector_id}")[2],
        lambda found: found["State"] == "ACTIVE" and found.get("LastUpdateStatus") != "InProgress",
    )


def test_recorded_bodies(api: LiveApi) -> None:
    status, headers, made = ask(api, "POST", _PATH, _request("golden"))
    connector_id = made["Id"]
    assert re.fullmatch(f"nc-{_UUID}", connector_id)
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:{connector_id}"
    base = {
        "Arn": arn,
        "Configuration": {"VpcEgressConfiguration": _EGRESS},
        "Id": connector_id,
        "Name": "golden",
        "OperatorRole": _ROLE,
    }
    numbered = {"Version": 1, "VersionArn": f"{arn}:1"}
    assert (status, headers["content-type"]) == (202, "application/json")
    assert made == {**base, **numbered, "State": "PENDING"}

    found = _active(api, connector_id)
    modified = found.pop("LastModified")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", modified)
    latest = {"LatestVersion": 1, "LatestVersionArn": f"{arn}:1"}
    assert found == {
        **base,
        **latest,
        "Version": 1,
        "State": "ACTIVE",
        "StateReason": "Initial creation",
    }

    update = {name: value for name, value in _request("u").items() if name != "Name"}
    status, _, same = ask(api, "PUT", f"{_PATH}/{connector_id}", update)
    assert status == 202
    assert same == {
        **base,
        **numbered,
        "LastModified": modified,
        "LastUpdateStatus": "Successful",
        "LastUpdateStatusReason": "No configuration changes detected",
        "State": "ACTIVE",
    }

    listed = ask(api, "GET", _PATH)[2]
    assert "NextMarker" not in listed
    assert listed["NetworkConnectors"][0] == {
        "Arn": arn,
        "Id": connector_id,
        "LastModified": modified,
        "Name": "golden",
        "State": "ACTIVE",
        "Type": "VPC_EGRESS",
        **latest,
    }

    status, _, gone = ask(api, "DELETE", f"{_PATH}/{arn}")
    assert (status, gone) == (202, {**base, "State": "DELETING"})
    path = f"{_PATH}/{connector_id}"
    status, headers, missing = _until(
        lambda: ask(api, "GET", path), lambda answer: answer[0] == 404
    )
    assert headers["x-amzn-errortype"] == "ResourceNotFoundException"
    assert missing == {"Message": f"Network connector not found for: {arn}"}
    assert ask(api, "DELETE", path)[0] == 202


@pytest.mark.parametrize(
    ("left_out", "text"),
    [
        (("ClientToken",), "ClientToken is a required field"),
        (
            ("OperatorRole",),
            "NetworkConnectorOperatorRole is required for VPC_EGRESS connector type",
        ),
        (
            ("Configuration", "VpcEgressConfiguration", "NetworkProtocol"),
            "NetworkProtocol cannot be null or empty",
        ),
        (
            ("Configuration", "VpcEgressConfiguration", "AssociatedComputeResourceTypes"),
            "AssociatedComputeResourceTypes cannot be null or empty",
        ),
    ],
)
def test_members_that_the_model_calls_optional(
    api: LiveApi, left_out: tuple[str, ...], text: str
) -> None:
    request = {**_request("wanting"), "Configuration": {"VpcEgressConfiguration": {**_EGRESS}}}
    place = request
    for name in left_out[:-1]:
        place = place[name]
    del place[left_out[-1]]
    status, headers, body = ask(api, "POST", _PATH, request)
    assert (status, body) == (400, {"message": text})
    assert headers["x-amzn-errortype"] == "InvalidParameterValueException"


def test_constraints_come_before_what_the_service_wants(api: LiveApi) -> None:
    subnets = [f"subnet-{number:017}" for number in range(1, 18)]
    egress = {"SubnetIds": subnets, "SecurityGroupIds": ["sg-1"]}
    request = {"Name": "many", "Configuration": {"VpcEgressConfiguration": egress}}
    status, headers, body = ask(api, "POST", _PATH, request)
    assert (status, headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert body == {
        "message": f"1 validation error detected: Value '[{', '.join(subnets)}]' at "
        "'configuration.vpcEgressConfiguration.subnetIds' failed to satisfy constraint: "
        "Member must have length less than or equal to 16"
    }


@pytest.fixture(scope="module")
def core(api: LiveApi) -> Iterator[Any]:
    client = api.client("lambda-core")
    yield client
    client.close()


def _error(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_a_life_by_boto3(api: LiveApi, core: Any) -> None:
    made = core.create_network_connector(**_request("life"), Tags={"team": "a"})
    assert core.create_network_connector(**_request("life"), Tags={"team": "a"})["Id"] == made["Id"]
    assert _error(lambda: core.create_network_connector(**_request("life"))) == (
        409,
        "ResourceConflictException",
    )
    _active(api, made["Id"])
    changed = {"VpcEgressConfiguration": {**_EGRESS, "NetworkProtocol": "DualStack"}}
    updated = core.update_network_connector(Identifier="life", Configuration=changed)
    assert (updated["Version"], updated["LastUpdateStatus"]) == (2, "InProgress")
    found = _active(api, made["Id"])
    assert (found["LatestVersion"], found["LastUpdateStatus"]) == (2, "Successful")
    old = core.get_network_connector(Identifier=f"{made['Arn']}:1")
    assert "LatestVersion" not in old
    assert old["VersionArn"] == f"{made['Arn']}:1"
    pages = core.get_paginator("list_network_connector_versions").paginate(
        Identifier="life", PaginationConfig={"PageSize": 1}
    )
    numbers = [one["Version"] for page in pages for one in page["NetworkConnectorVersions"]]
    assert numbers == [2, 1]
    latest = f"{made['Arn']}:2"
    assert _error(lambda: core.delete_network_connector(Identifier=latest))[0] == 409
    tags = api.client("lambda-microvms")
    tags.tag_resource(Resource=made["Arn"], Tags={"stage": "b"})
    tags.untag_resource(Resource=made["Arn"], TagKeys=["team"])
    assert tags.list_tags(Resource=made["Arn"])["Tags"] == {"stage": "b"}
    tags.close()
    assert core.delete_network_connector(Identifier="life")["State"] == "DELETING"


def test_lists_by_boto3(core: Any) -> None:
    for number in range(3):
        core.create_network_connector(**_request(f"list-{number}"))
    pages = core.get_paginator("list_network_connectors").paginate(PaginationConfig={"PageSize": 2})
    names = [one["Name"] for page in pages for one in page["NetworkConnectors"]]
    assert [name for name in names if name.startswith("list-")] == ["list-2", "list-1", "list-0"]
    options: list[dict[str, Any]] = [{"MaxItems": 101}, {"MaxItems": 0}, {"State": "GONE"}]
    for option in options:
        assert _error(partial(core.list_network_connectors, **option)) == (
            400,
            "ValidationException",
        )
    assert _error(lambda: core.list_network_connectors(Marker="x")) == (
        400,
        "InvalidParameterValueException",
    )
