"""Condition operators by example, and the rules by which they combine."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.conditions import OPERATORS, parse_conditions

CONTEXT = {
    "k": ("value",),
    "many": ("a", "b"),
    "none": (),
    "number": ("5",),
    "date": ("2026-07-30T12:00:00Z",),
    "ip": ("192.0.2.7",),
    "flag": ("true",),
    "arn": ("arn:aws:lambda:r:1:microvm-image:app",),
}


def holds(operator: str, key: str, wanted: Any) -> bool:
    conditions = parse_conditions({operator: {key: wanted}}, variables=True)
    return all(condition.holds(CONTEXT) for condition in conditions)


@pytest.mark.parametrize(
    ("operator", "key", "wanted", "expected"),
    [
        ("StringEquals", "K", "value", True),
        ("StringEquals", "k", "VALUE", False),
        ("StringEquals", "k", "val*", False),
        ("StringEquals", "k", ["x", "value"], True),
        ("StringEquals", "absent", "value", False),
        ("StringNotEquals", "k", ["x", "value"], False),
        ("StringNotEquals", "k", ["x", "y"], True),
        ("StringNotEquals", "absent", "x", True),
        ("StringEqualsIfExists", "absent", "x", True),
        ("StringEqualsIfExists", "k", "x", False),
        ("StringEqualsIgnoreCase", "k", "VALUE", True),
        ("StringNotEqualsIgnoreCase", "k", "VALUE", False),
        ("StringLike", "k", "v*e", True),
        ("StringNotLike", "k", "v*e", False),
        ("StringEquals", "k", "${k}", True),
        ("NumericEquals", "number", 5, True),
        ("NumericLessThan", "number", "6", True),
        ("NumericGreaterThanEquals", "number", "5.1", False),
        ("NumericNotEquals", "number", 5, False),
        ("NumericEquals", "k", 5, False),
        ("DateLessThan", "date", "2026-07-31", True),
        ("DateGreaterThan", "date", "2026-07-31T00:00:00Z", False),
        ("DateEquals", "date", "2026-07-30T14:00:00+02:00", True),
        ("DateEquals", "k", "2026-07-30", False),
        ("Bool", "flag", True, True),
        ("Bool", "flag", "false", False),
        ("IpAddress", "ip", "192.0.2.0/24", True),
        ("IpAddress", "ip", ["198.51.100.1", "2001:db8::/32"], False),
        ("NotIpAddress", "ip", "192.0.2.7", False),
        ("ArnLike", "arn", "arn:aws:lambda:*:1:microvm-image:*", True),
        ("ArnNotEquals", "arn", "arn:aws:lambda:r:1:microvm-image:app", False),
        ("BinaryEquals", "k", "value", True),
        ("Null", "absent", "true", True),
        ("Null", "k", "true", False),
        ("Null", "k", False, True),
        ("ForAllValues:StringEquals", "many", ["a", "b", "c"], True),
        ("ForAllValues:StringEquals", "many", "a", False),
        ("ForAllValues:StringEquals", "absent", "a", True),
        ("ForAllValues:StringEquals", "none", "a", True),
        ("ForAnyValue:StringEquals", "many", "b", True),
        ("ForAnyValue:StringEquals", "many", "c", False),
        ("ForAnyValue:StringEquals", "absent", "c", False),
        ("ForAllValues:StringNotEquals", "many", "b", False),
        ("ForAnyValue:StringNotEquals", "many", "b", True),
        ("ForAnyValue:StringNotEquals", "absent", "b", False),
        ("StringEquals", "many", "b", True),
        ("StringNotEquals", "many", "b", False),
    ],
)
def test_operators(operator: str, key: str, wanted: Any, expected: bool) -> None:
    assert holds(operator, key, wanted) is expected


def test_all_conditions_must_hold() -> None:
    both = {"StringEquals": {"k": "value", "number": "5"}, "Null": {"absent": True}}
    assert all(c.holds(CONTEXT) for c in parse_conditions(both, variables=True))
    assert len(parse_conditions(both, variables=True)) == 3


@given(st.sampled_from(sorted(OPERATORS)), st.text("ab", max_size=2))
def test_a_negated_operator_is_the_opposite(name: str, text: str) -> None:
    negated = OPERATORS[name].negated
    opposite = name.replace("Not", "") if negated else None
    if opposite is None or not name.startswith(("String", "Arn")) or name.startswith("Arn"):
        return
    assert holds(name, "k", text) is not holds(opposite, "k", text)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ([], "object of operators"),
        ({"StringSame": {"k": "v"}}, "'StringSame' is not a condition operator"),
        ({"ForSome:StringEquals": {"k": "v"}}, "is not a condition operator"),
        ({"ForAllValues:Null": {"k": True}}, "is not a condition operator"),
        ({"StringEquals": "v"}, "must be an object of condition keys"),
        ({"StringEquals": {"": "v"}}, "empty or too long"),
        ({"StringEquals": {"k": []}}, "no value is given"),
        ({"StringEquals": {"k": [{}]}}, "values must be texts"),
        ({"StringEquals": {"k": None}}, "values must be texts"),
        ({"NumericEquals": {"k": "nan"}}, "'nan' is not a number"),
        ({"DateEquals": {"k": "tomorrow"}}, "is not a date"),
        ({"Bool": {"k": "yes"}}, "neither true nor false"),
        ({"IpAddress": {"k": "10.0.0.0/33"}}, "is not an address"),
        ({"ArnLike": {"k": "arn:aws:s3"}}, "is not an ARN"),
        ({"StringLike": {"k": "${}"}}, "is not a policy variable"),
    ],
)
def test_what_is_refused(block: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("$", r"\$")):
        parse_conditions(block, variables=True)
