"""Which right each operation needs on what, and that no caller gets by without it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from microvmd.api.authorize import Authorizer, surroundings
from microvmd.api.operations import Operation
from microvmd.control.subjects import Subjects
from microvmd.model.caller import Caller, CallerKind
from microvmd.model.errors import AccessDenied
from microvmd.model.policy import Policy
from tests.unit.api.handling import CONTEXT, MANAGED, NOW, Api, handled
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, REGION
from tests.unit.control.test_connectors import request as connector_request

pytestmark = pytest.mark.anyio

Operations = dict[str, Operation]
EVE = f"arn:aws:iam::{ACCOUNT}:user/eve"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/build"
PREFIX = f"arn:aws:lambda:{REGION}:{ACCOUNT}"
PASSES = "lambda:PassNetworkConnector"


def user(*statements: tuple[str, str] | dict[str, Any]) -> Caller:
    """Each statement allows an action on a resource, or is one as it stands."""
    written = [
        s if isinstance(s, dict) else {"Effect": "Allow", "Action": s[0], "Resource": s[1]}
        for s in statements
    ]
    text = json.dumps({"Version": "2012-10-17", "Statement": written})
    policies = (Policy.parse(text),) if written else ()
    return Caller(EVE, ACCOUNT, CallerKind.USER, "eve", policies)


def under(condition: dict[str, Any], action: str = "*") -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": "*", "Condition": condition}


async def refusal(
    api: Api, operation: Operation, caller: Caller | None, **request: Any
) -> str | None:
    """What a caller is told, or None when it may."""
    authorizer = Authorizer(Subjects(api.plane.store))
    try:
        await authorizer(replace(CONTEXT, caller=caller), operation, request)
    except AccessDenied as error:
        return error.message
    return None


def told(action: str, resource: str) -> str:
    return (
        f"User: {EVE} is not authorized to perform: {action} on resource: {resource} "
        f"because no identity-based policy allows the {action} action"
    )


async def test_every_operation_needs_a_right(tmp_path: Path, operations: Operations) -> None:
    """Of a caller without any, whatever the request; nobody known is nobody let in."""
    identifiers = {
        "imageIdentifier": IMAGE_ARN,
        "microvmIdentifier": "microvm-1",
        "Identifier": "net",
        "Resource": IMAGE_ARN,
        "name": "app",
        "Name": "net",
    }
    async with handled(tmp_path) as api:
        for operation in operations.values():
            members = operation.input.members if operation.input is not None else {}
            request = {name: value for name, value in identifiers.items() if name in members}
            text = await refusal(api, operation, user(), **request)
            assert text is not None
            assert f"perform: lambda:{operation.name} on resource: " in text
            assert await refusal(api, operation, None, **request)
            assert await refusal(api, operation, Caller.root(ACCOUNT), **request) is None
            # A right to all others is none to this one.
            others = {"Effect": "Allow", "NotAction": f"lambda:{operation.name}", "Resource": "*"}
            assert await refusal(api, operation, user(others), **request) == text


async def test_an_image_in_the_slash_form_is_nobodys(
    tmp_path: Path, operations: Operations
) -> None:
    slash = IMAGE_ARN.replace("image:", "image/")
    async with handled(tmp_path) as api:
        for caller in (user(("*", "*")), Caller.root(ACCOUNT)):
            text = await refusal(api, operations["GetMicrovmImage"], caller, imageIdentifier=slash)
            assert text == told("lambda:GetMicrovmImage", slash).replace(EVE, caller.arn)


async def test_a_microvm_stands_for_its_image(tmp_path: Path, operations: Operations) -> None:
    get = operations["GetMicrovm"]
    async with handled(tmp_path) as api:
        await api.plane.built(tags={"team": "a"})
        microvm = await api.running()
        for caller in (
            user(("lambda:GetMicrovm", IMAGE_ARN)),
            user(under({"StringEquals": {"aws:ResourceTag/team": "a"}})),
        ):
            assert await refusal(api, get, caller, microvmIdentifier=microvm) is None
        text = await refusal(api, get, user(), microvmIdentifier=microvm)
        assert text == told("lambda:GetMicrovm", IMAGE_ARN)
        # One that is not there shows what was asked for, and a right to an image does not do.
        text = await refusal(api, get, user(("*", f"{PREFIX}:*")), microvmIdentifier="microvm-none")
        assert text == told("lambda:GetMicrovm", f"{PREFIX}:microvm:microvm-none")
        assert await refusal(api, get, user(("*", "*")), microvmIdentifier="microvm-none") is None


async def test_lists_are_asked_for_on_everything(tmp_path: Path, operations: Operations) -> None:
    """Whatever they filter by, as on AWS: a right to one image lists nothing."""
    lists = operations["ListMicrovms"]
    async with handled(tmp_path) as api:
        one = user(("lambda:ListMicrovms", IMAGE_ARN))
        for request in ({}, {"imageIdentifier": IMAGE_ARN}):
            assert await refusal(api, lists, one, **request) == told("lambda:ListMicrovms", "*")
            assert await refusal(api, lists, user(("lambda:List*", "*")), **request) is None


async def test_a_run_passes_its_role_and_connectors(tmp_path: Path, operations: Operations) -> None:
    run = operations["RunMicrovm"]
    runs = ("lambda:RunMicrovm", IMAGE_ARN)
    both = [(PASSES, f"{MANAGED}HTTP_INGRESS"), (PASSES, f"{MANAGED}INTERNET_EGRESS")]
    asked: dict[str, Any] = {"imageIdentifier": IMAGE_ARN}
    async with handled(tmp_path) as api:
        await api.plane.built()
        # Also those that are not named: the defaults are passed all the same.
        text = await refusal(api, run, user(runs), **asked)
        assert text == told(PASSES, f"{MANAGED}HTTP_INGRESS")
        text = await refusal(api, run, user(runs, both[0]), **asked)
        assert text == told(PASSES, f"{MANAGED}INTERNET_EGRESS")
        assert await refusal(api, run, user(runs, *both), **asked) is None
        empty = {**asked, "ingressNetworkConnectors": [], "egressNetworkConnectors": []}
        assert await refusal(api, run, user(runs, *both), **empty) is None
        shell = {**asked, "ingressNetworkConnectors": [f"{MANAGED}SHELL_INGRESS"]}
        text = await refusal(api, run, user(runs, *both), **shell)
        assert text == told(PASSES, f"{MANAGED}SHELL_INGRESS")
        role = {**asked, "executionRoleArn": ROLE}
        assert await refusal(api, run, user(runs, *both), **role) == told("iam:PassRole", ROLE)
        passes = ("iam:PassRole", ROLE)
        assert await refusal(api, run, user(runs, *both, passes), **role) is None


async def test_a_connector_is_known_by_its_id_however_it_is_named(
    tmp_path: Path, operations: Operations
) -> None:
    run, get = operations["RunMicrovm"], operations["GetNetworkConnector"]
    async with handled(tmp_path) as api:
        await api.plane.built()
        made = await api.plane.connectors.create(ACCOUNT, connector_request("office"))
        arn = made.connector.arn
        mine = user(("lambda:*", IMAGE_ARN), (PASSES, f"{MANAGED}*"), ("lambda:*", arn))
        for name in ("office", made.connector.connector_id, arn):
            request = {"imageIdentifier": IMAGE_ARN, "egressNetworkConnectors": [name]}
            assert await refusal(api, run, mine, **request) is None
            assert await refusal(api, get, mine, Identifier=name) is None
            text = await refusal(api, get, user(), Identifier=name)
            assert text == told("lambda:GetNetworkConnector", arn)
        text = await refusal(api, get, mine, Identifier="other")
        assert text == told("lambda:GetNetworkConnector", f"{PREFIX}:network-connector:other")


async def test_making_something_is_judged_by_its_name_and_tags(
    tmp_path: Path, operations: Operations
) -> None:
    create = operations["CreateMicrovmImage"]
    passes = ("iam:PassRole", ROLE), (PASSES, f"{MANAGED}*")
    asked = {"name": "app", "buildRoleArn": ROLE, "tags": {"team": "a"}}
    async with handled(tmp_path) as api:
        assert await refusal(api, create, user(("lambda:*", IMAGE_ARN), *passes), **asked) is None
        assert await refusal(api, create, user(*passes), **asked) == told(
            "lambda:CreateMicrovmImage", IMAGE_ARN
        )
        for condition, allowed in (
            ({"StringEquals": {"aws:RequestTag/team": "a"}}, True),
            ({"StringEquals": {"aws:RequestTag/team": "b"}}, False),
            ({"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}}, True),
            ({"ForAllValues:StringEquals": {"aws:TagKeys": ["cost"]}}, False),
            ({"StringEquals": {"aws:ResourceTag/team": "a"}}, False),
        ):
            caller = user(under(condition, "lambda:CreateMicrovmImage"), *passes)
            assert (await refusal(api, create, caller, **asked) is None) is allowed, condition


async def test_tagging_sees_the_tags_that_are_and_those_that_come(
    tmp_path: Path, operations: Operations
) -> None:
    tag, untag = operations["TagResource"], operations["UntagResource"]
    async with handled(tmp_path) as api:
        await api.plane.built(tags={"team": "a"})
        caller = user(
            under(
                {
                    "StringEquals": {"aws:ResourceTag/team": "a", "aws:RequestTag/team": "a"},
                    "ForAllValues:StringEquals": {"aws:TagKeys": ["team"]},
                }
            )
        )
        asked = {"Resource": IMAGE_ARN, "Tags": {"team": "a"}}
        assert await refusal(api, tag, caller, **asked) is None
        for tags in ({"team": "b"}, {"team": "a", "cost": "1"}):
            assert await refusal(api, tag, caller, Resource=IMAGE_ARN, Tags=tags)
        keeps = user(under({"ForAllValues:StringNotEquals": {"aws:TagKeys": ["team"]}}))
        assert await refusal(api, untag, keeps, Resource=IMAGE_ARN, TagKeys=["cost"]) is None
        assert await refusal(api, untag, keeps, Resource=IMAGE_ARN, TagKeys=["cost", "team"])


async def test_what_surrounds_a_request(tmp_path: Path, operations: Operations) -> None:
    lists = operations["ListMicrovms"]
    context = replace(CONTEXT, source_ip="192.0.2.7")
    async with handled(tmp_path) as api:
        authorizer = Authorizer(Subjects(api.plane.store))
        for condition, allowed in (
            ({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, True),
            ({"IpAddress": {"aws:SourceIp": "198.51.100.0/24"}}, False),
            ({"DateGreaterThan": {"aws:CurrentTime": "2026-07-29T00:00:00Z"}}, True),
            ({"DateLessThan": {"aws:CurrentTime": "2026-07-29T00:00:00Z"}}, False),
            ({"StringEquals": {"aws:RequestedRegion": REGION}}, True),
            ({"StringEquals": {"aws:username": "eve"}}, True),
            ({"StringEquals": {"aws:PrincipalType": "User"}}, True),
            ({"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:user/e*"}}, True),
            ({"Bool": {"aws:SecureTransport": "true"}}, False),
        ):
            asking = authorizer(replace(context, caller=user(under(condition))), lists, {})
            if allowed:
                await asking
            else:
                with pytest.raises(AccessDenied):
                    await asking
    assert "aws:sourceip" not in surroundings(NOW, REGION, None)


async def test_own_routes(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        await api.plane.built()
        microvm = await api.running()
        authorizer = Authorizer(Subjects(api.plane.store))
        gets = replace(CONTEXT, caller=user(("lambda:GetMicrovm", IMAGE_ARN)))
        await authorizer.microvm(gets, "lambda:GetMicrovm", microvm)
        with pytest.raises(AccessDenied):
            await authorizer.microvm(gets, "lambda:GetMicrovm", "microvm-none")
        reads = replace(CONTEXT, caller=user(("logs:*", f"{PREFIX}:log-group:/g:*")))
        authorizer.thing(reads, "logs:FilterLogEvents", f"{PREFIX}:log-group:/g:*")
        with pytest.raises(AccessDenied):
            authorizer.thing(reads, "logs:FilterLogEvents", f"{PREFIX}:log-group:/h:*")
