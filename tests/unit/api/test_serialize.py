"""Explicit nulls where they are recorded, and errors (all shapes: tests/clients/test_shapes.py)."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from microvmd.api.errors import NotOffered, SignatureError, UnparsableQuery, wire_error
from microvmd.api.operations import Operation
from microvmd.api.serialize import UnservableResult, serialize_error, serialize_response
from microvmd.model.errors import (
    ApiError,
    Conflict,
    InsufficientCapacity,
    InternalError,
    NotFound,
    QuotaExceeded,
    Throttled,
    ValidationError,
)

_MICROVM = {
    "microvmId": "microvm-1",
    "state": "PENDING",
    "endpoint": "e.lambda-microvm.us-east-1.microvm.localhost",
    "imageArn": "arn:aws:lambda:us-east-1:123456789012:microvm-image:web",
    "imageVersion": "1.0",
    "maximumDurationInSeconds": 28800,
    "startedAt": 1753862400.1239,
}


def test_unset_members_are_null(operations: dict[str, Operation]) -> None:
    body = json.loads(serialize_response(operations["RunMicrovm"], _MICROVM).body)
    unset = (
        "executionRoleArn",
        "idlePolicy",
        "terminatedAt",
        "stateReason",
        "ingressNetworkConnectors",
        "egressNetworkConnectors",
    )
    # No recorded body has kmsKeyIdentifier, which is newer than they are.
    assert body == _MICROVM | {"startedAt": 1753862400.124} | dict.fromkeys(unset)


def test_nested_structures_hold_only_what_is_set(operations: dict[str, Operation]) -> None:
    result = {**_LIST_ITEM, "hooks": {"port": 9000, "microvmHooks": {"run": "ENABLED"}}}
    body = json.loads(
        serialize_response(operations["ListMicrovmImageVersions"], {"items": [result]}).body
    )
    assert body["nextToken"] is None
    assert body["items"][0]["hooks"] == {"port": 9000, "microvmHooks": {"run": "ENABLED"}}
    assert body["items"][0]["stateReason"] is None


_LIST_ITEM = {
    "baseImageArn": "b",
    "buildRoleArn": "r",
    "codeArtifact": {"uri": "s3://b/k"},
    "imageArn": "i",
    "imageVersion": "1.0",
    "state": "SUCCESSFUL",
    "status": "ACTIVE",
    "createdAt": 1,
}


def test_core_leaves_unset_members_out(operations: dict[str, Operation]) -> None:
    wire = serialize_response(operations["ListNetworkConnectors"], {"NetworkConnectors": []})
    assert wire.body == b'{"NetworkConnectors":[]}'


def test_empty_bodies(operations: dict[str, Operation]) -> None:
    assert serialize_response(operations["SuspendMicrovm"], {}).body == b"{}"
    tagged = serialize_response(operations["TagResource"], {})
    assert (tagged.status, tagged.body, tagged.headers) == (204, b"", {})


def test_timestamps(operations: dict[str, Operation]) -> None:
    moment = datetime(2026, 7, 30, 12, 0, 0, 500_000, tzinfo=UTC)
    core = serialize_response(
        operations["GetNetworkConnector"],
        {"Arn": "a", "Name": "n", "Id": "i", "LastModified": moment},
    )
    assert json.loads(core.body)["LastModified"] == "2026-07-30T12:00:00.500Z"


def test_faults_of_a_handler(operations: dict[str, Operation]) -> None:
    with pytest.raises(UnservableResult, match="no member colour"):
        serialize_response(operations["RunMicrovm"], _MICROVM | {"colour": "red"})
    with pytest.raises(UnservableResult, match="needs microvmId"):
        serialize_response(operations["RunMicrovm"], {})


def test_recorded_unmodelled_members_pass(operations: dict[str, Operation]) -> None:
    result = _MICROVM | {"terminationReasonCode": None}
    body = json.loads(serialize_response(operations["GetMicrovm"], result).body)
    assert body["terminationReasonCode"] is None


@pytest.mark.parametrize(
    ("name", "error", "status", "code", "body"),
    [
        (
            "GetMicrovm",
            NotFound("MicroVM not found: microvm-1"),
            404,
            "ResourceNotFoundException",
            {"message": "MicroVM not found: microvm-1", "resourceId": None, "resourceType": None},
        ),
        (
            "RunMicrovm",
            QuotaExceeded("full"),
            402,
            "ServiceQuotaExceededException",
            {
                "message": "full",
                "resourceId": None,
                "resourceType": None,
                "serviceCode": None,
                "quotaCode": None,
            },
        ),
        ("RunMicrovm", ValidationError("no"), 400, "ValidationException", {"message": "no"}),
        (
            "UpdateMicrovmImage",
            Conflict("busy"),
            409,
            "ConflictException",
            {"message": "busy", "resourceId": None, "resourceType": None},
        ),
        (
            "TagResource",
            Conflict("busy"),
            409,
            "ResourceConflictException",
            {"message": "busy", "Type": "User"},
        ),
        (
            "RunMicrovm",
            InsufficientCapacity("full"),
            500,
            "InsufficientCapacityException",
            {"message": "full"},
        ),
        ("GetMicrovm", InternalError("us"), 500, "InternalServerException", {"message": "us"}),
        (
            "GetNetworkConnector",
            NotFound("gone"),
            404,
            "ResourceNotFoundException",
            {"Message": "gone"},
        ),
        (
            "GetNetworkConnector",
            ValidationError("no"),
            400,
            "ValidationException",
            {"message": "no"},
        ),
        (
            "CreateRuntime",
            NotOffered("later"),
            501,
            "ServiceException",
            {"Message": "later"},
        ),
        ("RunMicrovm", UnparsableQuery("x"), 400, "ValidationException", {"message": None}),
        (
            "RunMicrovm",
            SignatureError("IncompleteSignatureException", "half"),
            403,
            "IncompleteSignatureException",
            {"message": "half"},
        ),
    ],
)
def test_errors_on_the_wire(
    operations: dict[str, Operation],
    name: str,
    error: ApiError,
    status: int,
    code: str,
    body: dict[str, Any],
) -> None:
    wire = serialize_error(wire_error(error, operations[name]))
    assert (wire.status, wire.headers["x-amzn-errortype"]) == (status, code)
    assert json.loads(wire.body) == body


def test_throttled_says_when_to_come_back(operations: dict[str, Operation]) -> None:
    wire = serialize_error(wire_error(Throttled("slow", retry_after=3), operations["RunMicrovm"]))
    assert (wire.status, wire.headers["Retry-After"]) == (429, "3")
    core = wire_error(Throttled("slow", retry_after=3), operations["ListNetworkConnectors"])
    assert core.code == "TooManyRequestsException"
