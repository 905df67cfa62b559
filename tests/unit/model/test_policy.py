"""Policies: what they say of a request, and what is refused when one is attached."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.policy_validation import IAMPolicyDocumentValidator

from microvmd.model.policy import (
    ADMINISTRATOR,
    LONGEST_DOCUMENT,
    Asked,
    Effect,
    MalformedPolicy,
    Policy,
    Verdict,
    allow_everything,
    evaluate,
)

IMAGE = "arn:aws:lambda:us-east-1:123456789012:microvm-image:app"
OTHER = "arn:aws:lambda:us-east-1:123456789012:microvm-image:other"


def policy(*statements: dict[str, Any]) -> Policy:
    return Policy.parse(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))


def allow(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return allow(action, resource, **more) | {"Effect": "Deny"}


def asked(action: str = "lambda:RunMicrovm", resource: str | None = IMAGE, **context: str) -> Asked:
    return Asked(action, resource, {key: (value,) for key, value in context.items()})


@pytest.mark.parametrize(
    ("statements", "verdict"),
    [
        ([], Verdict.NOT_ALLOWED),
        ([allow("*")], Verdict.ALLOWED),
        ([allow("lambda:*")], Verdict.ALLOWED),
        ([allow("LAMBDA:runMICROVM")], Verdict.ALLOWED),
        ([allow("lambda:Run?icrovm", IMAGE)], Verdict.ALLOWED),
        ([allow("lambda:RunMicrovm", OTHER)], Verdict.NOT_ALLOWED),
        ([allow("lambda:Get*")], Verdict.NOT_ALLOWED),
        ([allow(["s3:*", "lambda:Run*"], [OTHER, IMAGE])], Verdict.ALLOWED),
        ([allow("*"), deny("lambda:Run*")], Verdict.DENIED),
        ([deny("lambda:Run*", OTHER), allow("*")], Verdict.ALLOWED),
        ([allow("*"), deny("*", Condition={"Null": {"absent": False}})], Verdict.ALLOWED),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], Verdict.ALLOWED),
        ([{"Effect": "Allow", "NotAction": "lambda:*", "Resource": "*"}], Verdict.NOT_ALLOWED),
        ([{"Effect": "Allow", "Action": "*", "NotResource": OTHER}], Verdict.ALLOWED),
        ([{"Effect": "Allow", "Action": "*", "NotResource": IMAGE}], Verdict.NOT_ALLOWED),
        (
            [allow("*"), {"Effect": "Deny", "NotAction": "lambda:Get*", "Resource": "*"}],
            Verdict.DENIED,
        ),
    ],
)
def test_verdicts(statements: list[dict[str, Any]], verdict: Verdict) -> None:
    assert evaluate([policy(*statements)] if statements else [], asked()) is verdict


def test_conditions_on_tags() -> None:
    mine = {"StringEquals": {"aws:ResourceTag/team": "a"}}
    found = [policy(allow("lambda:*", Condition=mine))]
    assert evaluate(found, asked(**{"aws:resourcetag/team": "a"})) is Verdict.ALLOWED
    assert evaluate(found, asked(**{"aws:resourcetag/team": "b"})) is Verdict.NOT_ALLOWED
    assert evaluate(found, asked()) is Verdict.NOT_ALLOWED


@pytest.mark.parametrize(
    ("short", "named"),
    [
        ("arn:aws:lambda", True),
        ("arn:aws:lambda:*", True),
        ("arn:aws:lambda:us-east-1:123456789012", True),
        ("arn:aws:lambda:eu-west-1", False),
        ("arn:aws:s3", False),
        ("arn:aws", True),
    ],
)
def test_a_short_arn_means_all_that_begins_with_it(short: str, named: bool) -> None:
    found = evaluate([policy(allow("*", short))], asked())
    assert found is (Verdict.ALLOWED if named else Verdict.NOT_ALLOWED)
    assert (evaluate([policy(deny("*", short))], asked()) is Verdict.DENIED) is named


def test_a_wildcard_beyond_a_colon_takes_away_and_never_gives() -> None:
    """AWS: a * at the end of a part may reach into the next one."""
    reaching = "arn:aws:lambda:us-east-1:*:app"
    other = {"Effect": "Allow", "Action": "*", "NotResource": reaching}
    assert evaluate([policy(allow("*", reaching))], asked()) is Verdict.NOT_ALLOWED
    assert evaluate([policy(deny("*", reaching))], asked()) is Verdict.DENIED
    assert evaluate([policy(other)], asked()) is Verdict.NOT_ALLOWED
    spared = {"Effect": "Deny", "Action": "*", "NotResource": reaching}
    assert evaluate([policy(allow("*"), spared)], asked()) is Verdict.DENIED


def test_a_variable_without_a_value_allows_nothing() -> None:
    """Also where it says what is excepted: nobody can tell what that is."""
    resource = "arn:aws:lambda:*:*:microvm-image:${aws:username}"
    condition = {"StringNotEquals": {"aws:ResourceTag/team": "${aws:username}"}}
    tagged = {"aws:resourcetag/team": "a"}
    for statement in (
        allow("*", resource),
        {"Effect": "Allow", "Action": "*", "NotResource": resource},
        allow("*", Condition=condition),
    ):
        known = evaluate([policy(statement)], asked(**tagged, **{"aws:username": "app"}))
        expected = Verdict.NOT_ALLOWED if "NotResource" in statement else Verdict.ALLOWED
        assert known is expected
        assert evaluate([policy(statement)], asked(**tagged)) is Verdict.NOT_ALLOWED
    for rule in (
        {"Effect": "Deny", "Action": "*", "NotResource": resource},
        deny("*", Condition=condition),
    ):
        assert evaluate([policy(allow("*"), rule)], asked(**tagged)) is Verdict.DENIED


def test_what_cannot_be_told_is_allowed_by_a_star_only_and_denied_by_anything() -> None:
    unknown = asked(resource=None)
    assert evaluate([policy(allow("*"))], unknown) is Verdict.ALLOWED
    assert evaluate([policy(allow("*", IMAGE))], unknown) is Verdict.NOT_ALLOWED
    other = {"Effect": "Allow", "Action": "*", "NotResource": IMAGE}
    assert evaluate([policy(other)], unknown) is Verdict.NOT_ALLOWED
    assert evaluate([policy(allow("*"), deny("*", OTHER))], unknown) is Verdict.DENIED


def test_variables_are_of_the_newer_version_only() -> None:
    resource = "arn:aws:s3:::${aws:username}/*"
    statement = allow("s3:GetObject", resource)
    old = Policy.parse(json.dumps({"Statement": statement}))
    request = asked("s3:GetObject", "arn:aws:s3:::eve/k", **{"aws:username": "eve"})
    assert evaluate([policy(statement)], request) is Verdict.ALLOWED
    assert evaluate([old], request) is Verdict.NOT_ALLOWED


def test_who_needs_no_look_up() -> None:
    administrator = Policy.parse(ADMINISTRATOR)
    assert allow_everything([administrator, policy(allow("s3:*"))])
    assert not allow_everything([administrator, policy(deny("s3:*"))])
    assert not allow_everything([policy(allow("lambda:*"))])
    assert not allow_everything([policy(allow("*", Condition={"Bool": {"k": True}}))])
    assert not allow_everything([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("[" * 50_000, "longer|nested too deeply|not JSON"),
        ("[" * 6_000, "nested too deeply|not JSON"),
        ('{"Statement": NaN}', "NaN is not a number"),
        ('{"Version": "2012-10-17", "Version": "2008-10-17"}', "same name twice"),
        ('{"Version": "2026-01-01", "Statement": []}', "Version must be one of"),
        ('{"Statements": []}', "does not exist: Statements"),
        ('{"Statement": []}', "no Statement"),
        ("{}", "Statement 1: is not an object"),
        ('{"Statement": [1]}', "Statement 1: is not an object"),
        ('{"Statement": {"Effect": "allow"}}', "Effect must be Allow or Deny"),
        ('{"Statement": {"Effect": "Allow", "Resource": "*"}}', "one of Action and NotAction"),
        (
            '{"Statement": {"Effect": "Allow", "Action": "*", "NotAction": "*", "Resource": "*"}}',
            "exactly one of Action and NotAction",
        ),
        ('{"Statement": {"Effect": "Allow", "Action": "*"}}', "one of Resource and NotResource"),
        ('{"Statement": {"Effect": "Allow", "Action": [], "Resource": "*"}}', "a list of texts"),
        ('{"Statement": {"Effect": "Allow", "Action": "Run", "Resource": "*"}}', "not an action"),
        ('{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "app"}}', "neither an ARN"),
        (
            '{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Sidd": "x"}}',
            "Sidd is not an element",
        ),
        (
            '{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Principal": "*"}}',
            "names no Principal",
        ),
        (
            '{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": []}}',
            "object of operators",
        ),
        (json.dumps({"Id": "x" * LONGEST_DOCUMENT}), "longer than 6144"),
    ],
)
def test_what_is_refused_says_why(text: str, message: str) -> None:
    with pytest.raises(MalformedPolicy, match=message):
        Policy.parse(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_ARN = st.sampled_from(
    ["*", IMAGE, OTHER, "arn:aws:s3:::b/*", "arn:aws:lambda:*:*:microvm-image:*"]
)
_ACTIONS = st.sampled_from(["*", "lambda:*", "lambda:RunMicrovm", "lambda:Get*", "s3:?etObject"])
_CONDITION = st.sampled_from(
    [
        {"StringEquals": {"aws:ResourceTag/team": "a"}},
        {"StringNotLike": {"aws:username": "e*"}},
        {"ForAnyValue:StringEquals": {"aws:TagKeys": ["a", "b"]}},
        {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}},
    ]
)
_STATEMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "Effect": st.sampled_from(["Allow", "Deny"]),
            "Action": _ACTIONS | st.lists(_ACTIONS, min_size=1, max_size=3),
            "Resource": _ARN | st.lists(_ARN, min_size=1, max_size=3),
        },
        optional={"Condition": _CONDITION},
    ),
    min_size=1,
    max_size=4,
)
_ASKED = st.builds(
    Asked,
    st.sampled_from(["lambda:RunMicrovm", "lambda:GetMicrovm", "s3:GetObject", "iam:PassRole"]),
    st.sampled_from([None, "*", IMAGE, OTHER, "arn:aws:s3:::b/k"]),
    st.dictionaries(
        st.sampled_from(["aws:resourcetag/team", "aws:username", "aws:tagkeys", "aws:sourceip"]),
        st.sampled_from([("a",), ("eve",), ("a", "z"), ("192.0.2.1",)]),
    ),
)


@given(
    st.text(max_size=60)
    | _JSON.map(json.dumps)
    | st.dictionaries(st.sampled_from(["Version", "Statement", "Id"]), _JSON).map(json.dumps)
)
def test_whatever_is_attached_is_a_policy_or_refused(text: str) -> None:
    with suppress(MalformedPolicy):
        evaluate([Policy.parse(text)], asked())


@given(_STATEMENTS)
def test_what_is_taken_is_a_policy_to_others_too(statements: list[dict[str, Any]]) -> None:
    """The validator of the local IAM is a second reader of the same rules."""
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    Policy.parse(text)
    IAMPolicyDocumentValidator(text).validate()


@given(_STATEMENTS, _STATEMENTS, _ASKED)
def test_rules_of_evaluation(
    first: list[dict[str, Any]], second: list[dict[str, Any]], request: Asked
) -> None:
    one, other = policy(*first), policy(*second)
    alone, together = evaluate([one], request), evaluate([one, other], request)
    # Order does not matter, one document or two does not matter.
    assert together is evaluate([other, one], request)
    assert together is evaluate([policy(*second, *first)], request)
    # A deny stays a deny; adding allows never takes one away.
    if alone is Verdict.DENIED:
        assert together is Verdict.DENIED
    if all(statement.effect is Effect.ALLOW for statement in other.statements):
        assert alone is not Verdict.ALLOWED or together is Verdict.ALLOWED
    # No deny that applies means no DENIED; no allow that applies means no ALLOWED.
    applying = [s.effect for p in (one, other) for s in p.statements if s.applies(request)]
    expected = Verdict.ALLOWED if Effect.ALLOW in applying else Verdict.NOT_ALLOWED
    assert together is (Verdict.DENIED if Effect.DENY in applying else expected)


_MOTO = {
    PermissionResult.PERMITTED: Verdict.ALLOWED,
    PermissionResult.NEUTRAL: Verdict.NOT_ALLOWED,
    PermissionResult.DENIED: Verdict.DENIED,
}


def by_moto(statements: list[dict[str, Any]], request: Asked) -> Verdict:
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    result = IAMPolicy(text).is_action_permitted(
        request.action,
        request.resource or "*",
        incoming_condition_values={key: value for key, (value,) in request.context.items()},
    )
    return _MOTO[result]


# What both define: no NotResource, no conditions, actions in their own case, no wildcard but *.
_BOTH_ACTIONS = st.sampled_from(
    ["*", "lambda:*", "lambda:RunMicrovm", "lambda:*Microvm", "s3:Get*"]
)
_BOTH_ACTION = _BOTH_ACTIONS | st.lists(_BOTH_ACTIONS, min_size=1, max_size=3)
_BOTH_RESOURCE = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Deny"]),
        "Resource": _ARN | st.lists(_ARN, min_size=1, max_size=3),
    }
)
_BOTH = st.lists(
    st.builds(
        lambda rest, name, action: {**rest, name: action},
        _BOTH_RESOURCE,
        st.sampled_from(["Action", "NotAction"]),
        _BOTH_ACTION,
    ),
    min_size=1,
    max_size=4,
)


@given(
    _BOTH,
    st.sampled_from(["lambda:RunMicrovm", "lambda:GetMicrovm", "s3:GetObject", "iam:PassRole"]),
    st.sampled_from([IMAGE, OTHER, "arn:aws:s3:::b/k"]),
)
def test_as_motos_evaluator_where_that_has_an_answer(
    statements: list[dict[str, Any]], action: str, resource: str
) -> None:
    request = Asked(action, resource, {})
    assert evaluate([policy(*statements)], request) is by_moto(statements, request)


@pytest.mark.parametrize(
    ("statements", "request_", "right", "motos"),
    [
        # A condition that does not hold denies instead of saying nothing.
        (
            [allow("*", Condition={"StringEquals": {"aws:username": "eve"}}), allow("*")],
            asked(**{"aws:username": "bob"}),
            Verdict.ALLOWED,
            Verdict.DENIED,
        ),
        # A key that the request does not have holds.
        (
            [allow("*", Condition={"StringEquals": {"aws:username": "eve"}})],
            asked(),
            Verdict.NOT_ALLOWED,
            Verdict.ALLOWED,
        ),
        # Any operator but StringEquals holds.
        (
            [allow("*", Condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}})],
            asked(**{"aws:sourceip": "198.51.100.1"}),
            Verdict.NOT_ALLOWED,
            Verdict.ALLOWED,
        ),
        # NotResource is not read: a Deny with it allows.
        (
            [{"Effect": "Deny", "Action": "*", "NotResource": OTHER}],
            asked(),
            Verdict.DENIED,
            Verdict.ALLOWED,
        ),
        # Variables are text.
        (
            [allow("*", "arn:aws:lambda:*:*:microvm-image:${aws:username}")],
            asked(**{"aws:username": "app"}),
            Verdict.ALLOWED,
            Verdict.NOT_ALLOWED,
        ),
        # What is special in a regular expression is special.
        ([allow("*", IMAGE)], asked(resource=f"{IMAGE}\n"), Verdict.NOT_ALLOWED, Verdict.ALLOWED),
        ([allow("lambda:Run?icrovm")], asked(), Verdict.ALLOWED, Verdict.NOT_ALLOWED),
        # Actions are told apart by case.
        ([allow("LAMBDA:runmicrovm")], asked(), Verdict.ALLOWED, Verdict.NOT_ALLOWED),
    ],
)
def test_why_it_is_not_motos(
    statements: list[dict[str, Any]], request_: Asked, right: Verdict, motos: Verdict
) -> None:
    """Shown for docs/decisions/0004: where one of these fails, look whether moto can do it now."""
    assert evaluate([policy(*statements)], request_) is right
    assert by_moto(statements, request_) is motos
