"""Trust policies: who is named, what denies, and that nothing unclear lets anybody in."""

import json
from typing import Any

import pytest

from microvmd.model.caller import Caller, CallerKind
from microvmd.model.trust import trusts

ACCOUNT = "123456789012"
OTHER = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/build"
EVE = Caller(f"arn:aws:iam::{ACCOUNT}:user/eve", ACCOUNT, CallerKind.USER, "eve")
SESSION = Caller(f"arn:aws:sts::{ACCOUNT}:assumed-role/app/s", ACCOUNT, CallerKind.ROLE, "app")


def allow(principal: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", **more}


def deny(principal: Any, **more: Any) -> dict[str, Any]:
    return allow(principal, **more) | {"Effect": "Deny"}


def trusted(caller: Caller, *statements: dict[str, Any], **context: str) -> bool:
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    return trusts(document, caller, ROLE, {name: (value,) for name, value in context.items()})


@pytest.mark.parametrize(
    "principal",
    [
        "*",
        {"AWS": "*"},
        {"AWS": ACCOUNT},
        {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
        {"AWS": EVE.arn},
        {"AWS": [f"arn:aws:iam::{OTHER}:root", EVE.arn]},
        {"Service": "lambda.amazonaws.com", "AWS": EVE.arn},
    ],
)
def test_who_is_named(principal: Any) -> None:
    assert trusted(EVE, allow(principal))


@pytest.mark.parametrize(
    "principal",
    [
        None,
        "",
        [],
        {},
        EVE.arn,
        ["*"],
        7,
        {"AWS": []},
        {"AWS": {"AWS": "*"}},
        {"AWS": [["*"]]},
        {"AWS": OTHER},
        {"AWS": f"arn:aws:iam::{OTHER}:root"},
        {"AWS": f"arn:aws:iam::{ACCOUNT}:user/e*"},
        {"AWS": f"arn:aws:iam::{ACCOUNT}:user/evelyn"},
        {"Service": "lambda.amazonaws.com"},
        {"Federated": "*"},
    ],
)
def test_who_is_not(principal: Any) -> None:
    assert not trusted(EVE, allow(principal))


def test_a_session_is_named_by_its_role_or_by_itself() -> None:
    for named in (f"arn:aws:iam::{ACCOUNT}:role/app", SESSION.arn):
        assert trusted(SESSION, allow({"AWS": named}))
    assert not trusted(SESSION, allow({"AWS": f"arn:aws:iam::{ACCOUNT}:role/other"}))


def test_a_deny_wins_wherever_it_stands() -> None:
    everybody, eve = allow("*"), deny({"AWS": EVE.arn})
    assert not trusted(EVE, everybody, eve)
    assert not trusted(EVE, eve, everybody)
    assert trusted(SESSION, everybody, eve)
    assert trusted(EVE, everybody, deny({"AWS": EVE.arn}, Action="sts:TagSession"))


def test_not_principal_lets_nobody_in_and_denies_all() -> None:
    """AWS advises against it; here it can only take away."""
    allowed = {"Effect": "Allow", "NotPrincipal": {"AWS": OTHER}, "Action": "sts:AssumeRole"}
    assert not trusted(EVE, allowed)
    assert not trusted(EVE, allow("*"), {**allowed, "Effect": "Deny"})


def test_conditions_and_actions_count() -> None:
    wanted = {"StringEquals": {"sts:ExternalId": "7"}}
    assert trusted(EVE, allow("*", Condition=wanted), **{"sts:externalid": "7"})
    assert not trusted(EVE, allow("*", Condition=wanted), **{"sts:externalid": "8"})
    assert not trusted(EVE, allow("*", Condition=wanted))
    assert not trusted(EVE, allow("*", Action="sts:AssumeRoleWithSAML"))
    assert trusted(EVE, allow("*", Action="sts:Assume*"))


@pytest.mark.parametrize(
    "document",
    ["", "{", "[]", "{}", '{"Statement": []}', '{"Statement": {"Effect": "Allow"}}'],
)
def test_what_cannot_be_read_trusts_nobody(document: str) -> None:
    assert not trusts(document, EVE, ROLE, {})
