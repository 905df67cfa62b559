"""Who may everything, and the words of a refusal."""

import json

import pytest

from microvmd.model.caller import Caller, CallerKind, tags_context
from microvmd.model.errors import AccessDenied
from microvmd.model.policy import ADMINISTRATOR, Asked, Policy

ACCOUNT = "123456789012"
EVE = f"arn:aws:iam::{ACCOUNT}:user/eve"
IMAGE = f"arn:aws:lambda:us-east-1:{ACCOUNT}:microvm-image:app"
ALL = Policy.parse(ADMINISTRATOR)
RUN = Asked("lambda:RunMicrovm", IMAGE, {})


def policy(effect: str, **condition: dict[str, str]) -> Policy:
    statement = {"Effect": effect, "Action": "lambda:Run*", "Resource": "*"}
    return Policy.parse(
        json.dumps({"Version": "2012-10-17", "Statement": {**statement, "Condition": condition}})
    )


def user(*policies: Policy, limits: tuple[tuple[Policy, ...], ...] = ()) -> Caller:
    return Caller(EVE, ACCOUNT, CallerKind.USER, "eve", policies, limits)


def refusal(caller: Caller, asked: Asked = RUN, shown: str | None = None) -> str:
    with pytest.raises(AccessDenied) as caught:
        caller.require(asked, shown)
    return caught.value.message


def test_root_and_administrators_need_no_look() -> None:
    assert Caller.root(ACCOUNT).unrestricted
    assert user(ALL).unrestricted
    assert not user(ALL, policy("Deny")).unrestricted
    assert not user(ALL, limits=((policy("Allow"),),)).unrestricted
    Caller.root(ACCOUNT).require(RUN)


def test_the_words_of_aws() -> None:
    begin = f"User: {EVE} is not authorized to perform: lambda:RunMicrovm on resource: {IMAGE} "
    assert refusal(user()) == (
        f"{begin}because no identity-based policy allows the lambda:RunMicrovm action"
    )
    assert refusal(user(ALL, policy("Deny"))) == (
        f"{begin}with an explicit deny in an identity-based policy"
    )
    assert refusal(user(ALL, limits=((),))) == (
        f"{begin}because no session policy allows the lambda:RunMicrovm action"
    )
    assert refusal(user(ALL, limits=((policy("Deny"),),))) == (
        f"{begin}with an explicit deny in a session policy"
    )
    assert "on resource: * because" in refusal(user(), Asked("lambda:ListMicrovms", "*", {}))
    assert f"on resource: {EVE} because" in refusal(user(), Asked("a:B", None, {}), EVE)


def test_policies_see_who_calls() -> None:
    for key, value in (
        ("aws:username", "eve"),
        ("aws:PrincipalArn", EVE),
        ("aws:PrincipalAccount", ACCOUNT),
        ("aws:PrincipalType", "User"),
    ):
        user(policy("Allow", StringEquals={key: value})).require(RUN)
        refusal(user(policy("Allow", StringEquals={key: "x"})))
    role = Caller(
        f"arn:aws:sts::{ACCOUNT}:assumed-role/app/s",
        ACCOUNT,
        CallerKind.ROLE,
        "app",
        (policy("Allow", ArnEquals={"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/app"}),),
    )
    role.require(RUN)


def test_tags() -> None:
    assert tags_context([("Team", "a")], "ResourceTag") == {"aws:resourcetag/team": ("a",)}
    assert tags_context([("Team", "a")], "RequestTag") == {
        "aws:requesttag/team": ("a",),
        "aws:tagkeys": ("Team",),
    }
    assert tags_context([], "RequestTag") == {}
