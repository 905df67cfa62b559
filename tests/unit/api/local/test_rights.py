"""Who may ask what of the local AWS, whom a role trusts, and what sessions stand for."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from microvmd.api.credentials import Identity
from microvmd.api.local.iam import NOTHING_TEXT, LocalIam
from microvmd.api.local.rights import ForeignRights
from microvmd.model.caller import Caller, CallerKind
from microvmd.model.errors import AccessDenied
from microvmd.model.policy import MalformedPolicy, Policy
from tests.unit.api.local.requests import ACCOUNT, made, raw
from tests.unit.api.local.server import LocalServer

pytestmark = pytest.mark.anyio

OPERATOR = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/"
ALL = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}'
ISSUED = Identity("ASIA", "secret", ACCOUNT, "token", datetime(2026, 7, 30, tzinfo=UTC))
EVES_KEY = Identity("AKIAEVE", "secret", ACCOUNT, user="eve")


@pytest.fixture
def server() -> LocalServer:
    return LocalServer(ACCOUNT)


@pytest.fixture
def rights(server: LocalServer) -> ForeignRights:
    return ForeignRights(LocalIam(server), OPERATOR)


def user(*actions: str, resource: str = "*") -> Caller:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": resource}
    text = json.dumps({"Version": "2012-10-17", "Statement": statement})
    policies = (Policy.parse(text),) if actions else ()
    return Caller(f"arn:aws:iam::{ACCOUNT}:user/eve", ACCOUNT, CallerKind.USER, "eve", policies)


def trust(principal: str) -> str:
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


async def allowed(rights: ForeignRights, caller: Caller, request: Any) -> bool:
    try:
        await rights.check(caller, request, {})
    except AccessDenied:
        return False
    return True


async def test_every_right_of_a_request_is_needed(rights: ForeignRights) -> None:
    copy = made("s3", "copy_object", Bucket="b", Key="k", CopySource="other/k")
    writes = user("s3:PutObject", resource="arn:aws:s3:::b/*")
    assert not await allowed(rights, writes, copy)
    assert await allowed(rights, user("s3:PutObject", "s3:GetObject"), copy)
    assert await allowed(rights, Caller.root(ACCOUNT), copy)
    assert not await allowed(rights, user(), made("kms", "list_keys"))


async def test_who_one_is_may_be_asked_by_everybody(rights: ForeignRights) -> None:
    assert await allowed(rights, user(), made("sts", "get_caller_identity"))
    assert await allowed(rights, user(), made("sts", "get_session_token"))
    assert not await allowed(rights, user(), made("sts", "get_access_key_info", AccessKeyId="x"))


async def test_a_role_wants_a_right_and_its_trust(
    rights: ForeignRights, server: LocalServer
) -> None:
    trusting, strict = server.role(trust(user().arn)), server.role(trust(OPERATOR))
    may = user("sts:AssumeRole")
    for role, caller, expected in (
        (trusting, may, True),
        (trusting, user(), False),
        (trusting, Caller.root(ACCOUNT), False),
        (strict, may, False),
        (strict, Caller.root(OPERATOR), True),
        # Of the own account: what nobody made is bound to what its caller may (credentials.py).
        ("absent", may, True),
        ("absent", user(), False),
        ("absent", Caller.root(ACCOUNT), True),
    ):
        request = made("sts", "assume_role", RoleArn=ROLE + role, RoleSessionName="s")
        assert await allowed(rights, caller, request) is expected, (role, caller.arn)


async def test_a_role_of_another_account_and_none_at_all_are_refused_alike(
    rights: ForeignRights, server: LocalServer
) -> None:
    other = "777788889999"
    caller = Caller(
        f"arn:aws:iam::{other}:user/x", other, CallerKind.USER, "x", (Policy.parse(ALL),)
    )
    texts = []
    for role in (server.role(trust(ACCOUNT)), "absent"):
        request = made("sts", "assume_role", RoleArn=ROLE + role, RoleSessionName="s")
        with pytest.raises(AccessDenied) as caught:
            await rights.check(caller, request, {})
        texts.append(caught.value.message.replace(role, "<ROLE>"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("arn", ["", "build", f"arn:aws:iam::{ACCOUNT}:user/eve", ROLE])
async def test_what_is_no_role_is_not_assumed(rights: ForeignRights, arn: str) -> None:
    request = made("sts", "assume_role", RoleArn=arn, RoleSessionName="s")
    for caller in (user("*"), Caller.root(OPERATOR)):
        assert not await allowed(rights, caller, request)


async def test_sessions_beget_no_sessions_but_by_roles(rights: ForeignRights) -> None:
    arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/app/s"
    session = Caller(arn, ACCOUNT, CallerKind.ROLE, "app", (Policy.parse(ALL),))
    assert not await allowed(rights, session, made("sts", "get_session_token"))
    assert not await allowed(rights, session, made("sts", "get_federation_token", Name="n"))
    request = made("sts", "assume_role", RoleArn=f"{ROLE}absent", RoleSessionName="s")
    assert await allowed(rights, session, request)


async def test_a_bad_session_policy_is_told(rights: ForeignRights) -> None:
    request = made("sts", "assume_role", RoleArn=f"{ROLE}r", RoleSessionName="s", Policy="{")
    with pytest.raises(MalformedPolicy):
        await rights.check(Caller.root(OPERATOR), request, {})


async def test_what_sessions_stand_for(rights: ForeignRights, server: LocalServer) -> None:
    limited = replace(EVES_KEY, session_policies=(ALL,))
    for request, caller, expected in (
        (
            made("sts", "assume_role", RoleArn=f"{ROLE}path/build", RoleSessionName="s"),
            limited,
            replace(ISSUED, issuer="AKIAEVE", role="build", session_name="s"),
        ),
        (
            made("sts", "assume_role", RoleArn=f"{ROLE}r", RoleSessionName="s", Policy=ALL),
            EVES_KEY,
            replace(ISSUED, issuer="AKIAEVE", role="r", session_name="s", session_policies=(ALL,)),
        ),
        (
            made("sts", "get_session_token"),
            limited,
            replace(ISSUED, issuer="AKIAEVE", user="eve", session_policies=(ALL,)),
        ),
        (
            made("sts", "get_federation_token", Name="bob"),
            EVES_KEY,
            replace(ISSUED, issuer="AKIAEVE", federated="bob"),
        ),
    ):
        assert await rights.session(ISSUED, caller, request) == expected


async def test_managed_session_policies_are_read_when_the_session_is_made(
    rights: ForeignRights, server: LocalServer
) -> None:
    name = server.role()
    server.iam("CreatePolicy", PolicyName=name, PolicyDocument=ALL)
    arn = f"arn:aws:iam::{ACCOUNT}:policy/{name}"
    request = made(
        "sts",
        "assume_role",
        RoleArn=f"{ROLE}r",
        RoleSessionName="s",
        PolicyArns=[{"arn": f"{arn}-absent"}, {"arn": arn}],
    )
    session = await rights.session(ISSUED, EVES_KEY, request)
    # One that is not there gives nothing.
    assert session.session_policies == (NOTHING_TEXT, ALL)


async def test_a_change_of_iam_is_noted(server: LocalServer) -> None:
    iam = LocalIam(server)
    rights, role = ForeignRights(iam, OPERATOR), server.role()
    assert await iam.policies(ACCOUNT, role) == ()
    server.iam("PutRolePolicy", RoleName=role, PolicyName="p", PolicyDocument=ALL)
    rights.note(made("iam", "get_role", RoleName=role))
    rights.note(made("s3", "create_bucket", Bucket="b"))
    assert await iam.policies(ACCOUNT, role) == ()
    rights.note(raw("iam", body=b"Action=PutRolePolicy"))
    assert await iam.policies(ACCOUNT, role) == (Policy.parse(ALL),)
