"""Roles as the local IAM has them: inline and managed policies, what is kept, what is forgotten."""

import json
from typing import Any

import httpx
import pytest

from microvmd.api.local.iam import KEPT_S, LocalIam
from microvmd.model.errors import InternalError
from microvmd.model.policy import Asked, Policy, Verdict, evaluate
from tests.unit.api.local.server import LocalServer
from tests.unit.control.plane import Clock

pytestmark = pytest.mark.anyio

ACCOUNT = "444455556666"


def _policy(action: str, **more: Any) -> str:
    statement = {"Effect": "Allow", "Action": action, "Resource": "*", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


LISTS = _policy("lambda:List*")
READS = _policy("s3:Get*")
# IAM takes it; as a number it means nothing.
UNCLEAR = _policy("*", Condition={"NumericEquals": {"s3:max-keys": "many"}})


def _may(policies: tuple[Policy, ...] | None, action: str) -> Verdict:
    assert policies is not None
    return evaluate(policies, Asked(action, "*", {}))


@pytest.fixture
def server() -> LocalServer:
    return LocalServer(ACCOUNT)


async def test_a_role_may_what_is_inline_or_attached(server: LocalServer) -> None:
    iam, role = LocalIam(server), server.role()
    server.iam("PutRolePolicy", RoleName=role, PolicyName="p", PolicyDocument=LISTS)
    server.iam("CreatePolicy", PolicyName=f"{role}-m", PolicyDocument=READS)
    arn = f"arn:aws:iam::{ACCOUNT}:policy/{role}-m"
    server.iam("AttachRolePolicy", RoleName=role, PolicyArn=arn)
    found = await iam.policies(ACCOUNT, role)
    assert _may(found, "lambda:ListMicrovms") is Verdict.ALLOWED
    assert _may(found, "s3:GetObject") is Verdict.ALLOWED
    assert _may(found, "s3:PutObject") is Verdict.NOT_ALLOWED
    assert await iam.managed(ACCOUNT, arn) == READS


async def test_every_page_of_attached_policies_counts(server: LocalServer) -> None:
    role = server.role()
    for number in range(101):
        name = f"{role}-{number:03}"
        document = READS if number else _policy("lambda:*", Effect="Deny")
        server.iam("CreatePolicy", PolicyName=name, PolicyDocument=document)
        arn = f"arn:aws:iam::{ACCOUNT}:policy/{name}"
        server.iam("AttachRolePolicy", RoleName=role, PolicyArn=arn)
    for last in (READS, _policy("s3:Get*", Effect="Deny")):
        server.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=last, SetAsDefault="true")
        found = await LocalIam(server).policies(ACCOUNT, role)
        assert found is not None
        assert len(found) == 101
        assert _may(found, "lambda:ListMicrovms") is Verdict.DENIED
    assert _may(found, "s3:GetObject") is Verdict.DENIED


async def test_the_version_in_force_counts(server: LocalServer) -> None:
    iam, role = LocalIam(server), server.role()
    server.iam("CreatePolicy", PolicyName=role, PolicyDocument=READS)
    arn = f"arn:aws:iam::{ACCOUNT}:policy/{role}"
    server.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=LISTS, SetAsDefault="true")
    assert await iam.managed(ACCOUNT, arn) == LISTS
    assert await iam.managed(ACCOUNT, f"{arn}-absent") is None


async def test_a_role_without_policies_and_one_that_is_not_there(server: LocalServer) -> None:
    iam, role = LocalIam(server), server.role(LISTS)
    assert await iam.policies(ACCOUNT, role) == ()
    assert await iam.trust(ACCOUNT, role) == LISTS
    assert await iam.policies(ACCOUNT, "absent") is None
    assert await iam.trust(ACCOUNT, "absent") is None
    # The same name in another account is another role.
    assert await iam.policies("777788889999", role) is None


async def test_a_policy_that_is_not_understood_denies(server: LocalServer) -> None:
    """The local IAM takes policies that are none; guessing could give too much."""
    iam, role = LocalIam(server), server.role()
    server.iam("PutRolePolicy", RoleName=role, PolicyName="a", PolicyDocument=LISTS)
    server.iam("PutRolePolicy", RoleName=role, PolicyName="b", PolicyDocument=UNCLEAR)
    assert _may(await iam.policies(ACCOUNT, role), "lambda:ListMicrovms") is Verdict.DENIED


async def test_answers_are_kept_until_a_change_or_for_a_while(server: LocalServer) -> None:
    clock = Clock()
    iam, role = LocalIam(server, clock), server.role()

    async def may() -> Verdict:
        return _may(await iam.policies(ACCOUNT, role), "lambda:ListMicrovms")

    assert await may() is Verdict.NOT_ALLOWED
    asked = server.asked
    assert await may() is Verdict.NOT_ALLOWED
    assert server.asked == asked
    server.iam("PutRolePolicy", RoleName=role, PolicyName="p", PolicyDocument=LISTS)
    iam.forget("777788889999")
    assert await may() is Verdict.NOT_ALLOWED
    iam.forget(ACCOUNT)
    assert await may() is Verdict.ALLOWED
    server.iam("DeleteRolePolicy", RoleName=role, PolicyName="p")
    assert await may() is Verdict.ALLOWED
    clock.now += KEPT_S
    assert await may() is Verdict.NOT_ALLOWED


async def test_a_server_that_fails_is_not_a_role_that_is_absent() -> None:
    async def fail(headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Response:
        return httpx.Response(500)

    with pytest.raises(InternalError, match="local IAM answered 500 to GetRole"):
        await LocalIam(fail).policies(ACCOUNT, "role")
