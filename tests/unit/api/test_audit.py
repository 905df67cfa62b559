"""Records of calls: CloudTrail's shape, and no secret in them, whatever the models take."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microvmd.api.audit import HIDDEN, PART_LIMIT, Call, of_foreign, record
from microvmd.api.operations import Operation, load_operations
from microvmd.api.proven import Proven
from microvmd.api.requests import RequestContext
from microvmd.api.signed import Signature
from microvmd.model.caller import Caller, CallerKind
from tests.shapes import legal

ACCOUNT = "123456789012"
NOW = datetime(2026, 7, 30, 12, 0, 5, tzinfo=UTC)
CANARY = "canary-d1f0a9c4"
KNOWN = frozenset({"runHookPayload", "environmentVariables", "authToken"})
"""Secret by what they are; the models say so too, today."""
OPERATIONS = load_operations()
RUN = next(operation for operation in OPERATIONS if operation.name == "RunMicrovm")
IMAGE = f"arn:aws:lambda:us-east-1:{ACCOUNT}:microvm-image:app"
USER = Caller(f"arn:aws:iam::{ACCOUNT}:user/ann", ACCOUNT, CallerKind.USER, "ann")
ROLE = Caller(f"arn:aws:sts::{ACCOUNT}:assumed-role/app/s1", ACCOUNT, CallerKind.ROLE, "app")
# Every member that CloudTrail says is always there (its reference of record contents).
ALWAYS = {
    *("eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion"),
    *("sourceIPAddress", "userAgent", "requestParameters", "responseElements", "requestID"),
    *("eventID", "eventType", "recipientAccountId", "eventCategory", "managementEvent"),
    *("readOnly", "resources"),
}


def _call(caller: Caller | None = USER) -> Call:
    call = Call("r-1", "us-east-1", "10.0.0.9", "aws-cli/2")
    if caller is not None:
        call.context = RequestContext(ACCOUNT, "us-east-1", "AKIA", "r-1", NOW, caller)
    return call


def _claim(service: str = "lambda") -> Signature:
    return Signature("AKIAX", "us-east-1", service, "20260730T120000Z", (), "0" * 64, None, None)


def _run(**more: Any) -> Call:
    call = _call()
    call.asks(RUN)
    call.with_input(RUN, {"imageIdentifier": IMAGE, **more})
    call.with_output(RUN, {"microvmId": "microvm-1", "imageArn": IMAGE, "startedAt": NOW})
    return call


def test_a_call_that_changes_something() -> None:
    made = record(_run(runHookPayload="secret"), NOW)
    assert made.keys() == ALWAYS
    event_id = made.pop("eventID")
    assert len(event_id) == 36
    assert made == {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": "ann",
            "arn": USER.arn,
            "accountId": ACCOUNT,
            "accessKeyId": "AKIA",
            "userName": "ann",
        },
        "eventTime": "2026-07-30T12:00:05Z",
        "eventSource": "lambda.amazonaws.com",
        "eventName": "RunMicrovm",
        "awsRegion": "us-east-1",
        "sourceIPAddress": "10.0.0.9",
        "userAgent": "aws-cli/2",
        "requestParameters": {"imageIdentifier": IMAGE, "runHookPayload": HIDDEN},
        "responseElements": {
            "microvmId": "microvm-1",
            "imageArn": IMAGE,
            "startedAt": "2026-07-30T12:00:05Z",
        },
        "requestID": "r-1",
        "readOnly": False,
        "resources": [
            {"accountId": ACCOUNT, "type": "AWS::Lambda::MicrovmImage", "ARN": IMAGE},
            {
                "accountId": ACCOUNT,
                "type": "AWS::Lambda::Microvm",
                "ARN": f"arn:aws:lambda:us-east-1:{ACCOUNT}:microvm:microvm-1",
            },
        ],
        "eventType": "AwsApiCall",
        "managementEvent": False,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Data",
    }


def test_reads_and_management() -> None:
    told = {}
    for operation in OPERATIONS:
        call = _call()
        call.asks(operation)
        made = record(call, NOW)
        told[operation.name] = (made["readOnly"], made["managementEvent"])
    assert told["ListMicrovms"] == (True, True)
    assert told["GetMicrovm"] == (True, False)
    assert told["CreateMicrovmShellAuthToken"] == (False, False)
    assert told["CreateMicrovmImage"] == (False, True)
    assert told["DeleteNetworkConnector"] == (False, True)


@pytest.mark.parametrize(
    ("caller", "kind", "more"),
    [
        (Caller.root(ACCOUNT), "Root", {"principalId": ACCOUNT}),
        (ROLE, "AssumedRole", {"principalId": "app:s1"}),
    ],
)
def test_who_calls(caller: Caller, kind: str, more: dict[str, str]) -> None:
    identity = record(_call(caller), NOW)["userIdentity"]
    assert identity["type"] == kind
    assert more.items() <= identity.items()
    issuer = identity.get("sessionContext", {}).get("sessionIssuer", {})
    assert issuer.get("arn") == (f"arn:aws:iam::{ACCOUNT}:role/app" if caller is ROLE else None)


def test_who_has_not_proven_to_be_anybody() -> None:
    call = _call(None)
    call.claim, call.account, call.error, call.message = _claim(), ACCOUNT, "Invalid", "no"
    made = record(call, NOW)
    assert made["userIdentity"] == {
        "type": "Unknown",
        "accountId": ACCOUNT,
        "accessKeyId": "AKIAX",
    }
    assert (made["errorCode"], made["errorMessage"]) == ("Invalid", "no")
    assert made["recipientAccountId"] == ACCOUNT


@pytest.mark.parametrize(
    ("service", "action", "data", "read"),
    [
        ("sts", "AssumeRole", False, False),
        ("s3", "PutObject", True, False),
        ("s3", "CreateBucket", False, False),
        ("logs", "DescribeLogStreams", False, True),
        ("logs", "PutLogEvents", True, False),
        ("s3", "", False, False),
    ],
)
def test_other_services(service: str, action: str, data: bool, read: bool) -> None:
    call, known = _call(None), _call().context
    assert known is not None
    of_foreign(call, _claim(service), Proven(known, action=action))
    made = record(call, NOW)
    assert made["eventSource"] == f"{service}.amazonaws.com"
    assert made["eventName"] == action or (not action and made["eventName"] == "UnknownOperation")
    assert (made["managementEvent"], made["readOnly"]) == (not data, read)


def test_sizes_are_bounded() -> None:
    call = _run(clientToken="x" * PART_LIMIT)
    call.user_agent, call.error, call.message = "u" * 9999, "E", "m" * 9999
    made = record(call, NOW)
    assert made["requestParameters"] == {"omitted": True}
    assert len(json.dumps(made)) < 4096


def _planted(shape: Shape, value: Any, *, secret: bool = False) -> Any:
    """The value with a canary in every text that is secret."""
    secret = secret or bool(shape.metadata.get("sensitive"))
    match shape:
        case StructureShape():
            return {
                name: _planted(shape.members[name], item, secret=secret or name in KNOWN)
                for name, item in value.items()
            }
        case ListShape():
            return [_planted(shape.member, item, secret=secret) for item in value]
        case MapShape():
            return {k: _planted(shape.value, v, secret=secret) for k, v in value.items()}
        case _:
            return f"{CANARY}{value}" if secret and isinstance(value, str) else value


def _sensitive(shape: Shape | None) -> bool:
    match shape:
        case StructureShape():
            return bool(KNOWN & shape.members.keys()) or any(
                map(_sensitive, shape.members.values())
            )
        case ListShape():
            return _sensitive(shape.member)
        case MapShape():
            return _sensitive(shape.value)
        case None:
            return False
        case _:
            return bool(shape.metadata.get("sensitive"))


SECRETIVE = [o for o in OPERATIONS if _sensitive(o.input) or _sensitive(o.output)]


def test_items_that_are_null_are_told_as_they_came() -> None:
    """Shown before it is looked at whether a request is whole."""
    call, create = _call(), next(o for o in OPERATIONS if o.name == "CreateMicrovmImage")
    call.asks(create)
    call.with_input(create, {"resources": [None], "tags": {"a": None}})
    assert call.parameters == {"resources": [None], "tags": {"a": None}}


def test_there_are_operations_with_secrets() -> None:
    names = {operation.name for operation in SECRETIVE}
    assert names >= {"RunMicrovm", "CreateMicrovmImage", "CreateMicrovmAuthToken"}


@given(operation=st.sampled_from(SECRETIVE), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_secret_is_told(operation: Operation, data: st.DataObject) -> None:
    call = _call()
    call.asks(operation)
    request = _drawn(operation.input, data)
    call.with_input(operation, request)
    call.with_output(operation, _drawn(operation.output, data))
    call.error, call.message = "ValidationException", f"Value {_texts(request)} is refused"
    text = json.dumps(record(call, NOW), ensure_ascii=False)
    assert CANARY not in text


def _drawn(shape: StructureShape | None, data: st.DataObject) -> dict[str, Any]:
    if shape is None:
        return {}
    full = {name: legal(member) for name, member in shape.members.items()}
    drawn = {
        name: data.draw(value)
        for name, value in full.items()
        if _sensitive(shape.members[name]) or name in KNOWN
    }
    planted: dict[str, Any] = _planted(shape, drawn)
    return planted


def _texts(value: Any) -> str:
    """Every text of a value, as an error message might have it."""
    match value:
        case Mapping():
            return " ".join(_texts(item) for item in value.values())
        case list():
            return " ".join(map(_texts, value))
        case _:
            return str(value)
