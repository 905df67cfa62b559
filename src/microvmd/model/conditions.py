"""The ``Condition`` block of IAM policies: operators, what they compare and how they combine.

Values of one key are alternatives; of a negated operator none may match. A key that the request
does not have fails, but for negated operators, ``...IfExists`` and ``ForAllValues:``.
"""

import ipaddress
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from microvmd.model.pattern import ARN_SEGMENTS, Context, Pattern

LONGEST_KEY = 256

Wanted = Any
"""A value of the policy as its operator compares it: a Pattern, a number, a network, a moment."""


class Quantifier(Enum):
    """How an operator takes a key that has several values."""

    ALL = "ForAllValues"
    ANY = "ForAnyValue"


@dataclass(frozen=True, slots=True)
class _Operator:
    read: Callable[[str, bool], Wanted]
    """From the policy's text; the flag allows variables. ValueError says what is wanted."""
    test: Callable[[Wanted, str, Context], bool]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key."""

    operator: _Operator | None
    """None: the ``Null`` operator, whose wanted values tell whether the key must be absent."""
    key: str
    wanted: tuple[Wanted, ...]
    quantifier: Quantifier | None = None
    if_exists: bool = False

    def holds(self, context: Context) -> bool:
        values = context.get(self.key)
        if self.operator is None:
            return (values is None) in self.wanted
        negated = self.operator.negated
        if values is None:
            return (
                self.if_exists
                or self.quantifier is Quantifier.ALL
                or (negated and self.quantifier is None)
            )
        results = [self._matches(value, context) is not negated for value in values]
        if self.quantifier is Quantifier.ALL or (self.quantifier is None and negated):
            return all(results)
        return any(results)

    def tells(self, context: Context) -> bool:
        """False for a negated operator on a variable without a value: it holds for want of a
        meaning, and that must allow nothing."""
        if self.operator is None or not self.operator.negated or self.key not in context:
            return True
        patterns = (wanted for wanted in self.wanted if isinstance(wanted, Pattern))
        return all(pattern.resolves(context) for pattern in patterns)

    def _matches(self, value: str, context: Context) -> bool:
        assert self.operator is not None
        return any(self.operator.test(wanted, value, context) for wanted in self.wanted)


def parse_conditions(block: object, *, variables: bool) -> tuple[Condition, ...]:
    """Read a ``Condition`` block. ValueError says what is wrong with it."""
    if not isinstance(block, dict):
        raise ValueError("Condition must be an object of operators")
    return tuple(_conditions(block, variables=variables))


def _conditions(block: dict[str, Any], *, variables: bool) -> Iterator[Condition]:
    for name, keys in block.items():
        quantifier, known, if_exists = _operator(name)
        if not isinstance(keys, dict) or not keys:
            raise ValueError(f"Condition {name} must be an object of condition keys")
        for key, given in keys.items():
            if not key or len(key) > LONGEST_KEY:
                raise ValueError(f"Condition {name} has a key that is empty or too long")
            try:
                wanted = tuple(
                    _read_bool(text, variables) if known is None else known.read(text, variables)
                    for text in _texts(given)
                )
            except ValueError as error:
                raise ValueError(f"Condition {name} of {key}: {error}") from error
            yield Condition(known, key.lower(), wanted, quantifier, if_exists)


def _operator(name: str) -> tuple[Quantifier | None, _Operator | None, bool]:
    prefix, colon, rest = name.rpartition(":")
    quantifier = None
    if colon:
        if prefix not in {item.value for item in Quantifier}:
            raise ValueError(f"'{name}' is not a condition operator")
        quantifier = Quantifier(prefix)
    if rest == "Null" and quantifier is None:
        return None, None, False
    known = OPERATORS.get(rest.removesuffix("IfExists"))
    if known is None:
        raise ValueError(f"'{name}' is not a condition operator")
    return quantifier, known, rest.endswith("IfExists")


def _texts(given: object) -> list[str]:
    values = given if isinstance(given, list) else [given]
    if not values:
        raise ValueError("no value is given")
    return [_text(value) for value in values]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value
    raise ValueError("values must be texts, numbers or booleans")


def _read_exact(text: str, variables: bool) -> Wanted:
    return Pattern.parse(text, variables=variables, wildcards=False)


def _read_pattern(text: str, variables: bool) -> Wanted:
    return Pattern.parse(text, variables=variables)


def _read_arn(text: str, variables: bool) -> Wanted:
    pattern = Pattern.parse(text, variables=variables)
    if not pattern.is_any and len(pattern.arn_parts()) != ARN_SEGMENTS:
        raise ValueError(f"'{text}' is not an ARN")
    return pattern


def _read_number(text: str, variables: bool) -> Wanted:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"'{text}' is not a number")
    return number


def _read_date(text: str, variables: bool) -> Wanted:
    moment = _moment(text)
    if moment is None:
        raise ValueError(f"'{text}' is not a date (ISO 8601, or seconds since the epoch)")
    return moment


def _read_bool(text: str, variables: bool) -> Wanted:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"'{text}' is neither true nor false")
    return text.lower() == "true"


def _read_network(text: str, variables: bool) -> Wanted:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"'{text}' is not an address or a network as 192.0.2.0/24") from None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _equal(wanted: Wanted, value: str, context: Context) -> bool:
    return bool(wanted.matches(value, context))


def _equal_ignoring_case(wanted: Wanted, value: str, context: Context) -> bool:
    return bool(wanted.matches(value, context, ignore_case=True))


def _like_arn(wanted: Wanted, value: str, context: Context) -> bool:
    return bool(wanted.matches_arn(value, context))


def _is(wanted: Wanted, value: str, context: Context) -> bool:
    return value.lower() == str(wanted).lower()


def _within(wanted: Wanted, value: str, context: Context) -> bool:
    try:
        return ipaddress.ip_address(value) in wanted
    except ValueError:
        return False


def _number(compare: Callable[[float, float], bool]) -> Callable[[Wanted, str, Context], bool]:
    def test(wanted: Wanted, value: str, context: Context) -> bool:
        try:
            return compare(float(value), wanted)
        except ValueError:
            return False

    return test


def _date(compare: Callable[[datetime, datetime], bool]) -> Callable[[Wanted, str, Context], bool]:
    def test(wanted: Wanted, value: str, context: Context) -> bool:
        moment = _moment(value)
        return moment is not None and compare(moment, wanted)

    return test


OPERATORS: dict[str, _Operator] = {
    "StringEquals": _Operator(_read_exact, _equal),
    "StringNotEquals": _Operator(_read_exact, _equal, negated=True),
    "StringEqualsIgnoreCase": _Operator(_read_exact, _equal_ignoring_case),
    "StringNotEqualsIgnoreCase": _Operator(_read_exact, _equal_ignoring_case, negated=True),
    "StringLike": _Operator(_read_pattern, _equal),
    "StringNotLike": _Operator(_read_pattern, _equal, negated=True),
    "ArnEquals": _Operator(_read_arn, _like_arn),
    "ArnNotEquals": _Operator(_read_arn, _like_arn, negated=True),
    "ArnLike": _Operator(_read_arn, _like_arn),
    "ArnNotLike": _Operator(_read_arn, _like_arn, negated=True),
    "NumericEquals": _Operator(_read_number, _number(operator.eq)),
    "NumericNotEquals": _Operator(_read_number, _number(operator.eq), negated=True),
    "NumericLessThan": _Operator(_read_number, _number(operator.lt)),
    "NumericLessThanEquals": _Operator(_read_number, _number(operator.le)),
    "NumericGreaterThan": _Operator(_read_number, _number(operator.gt)),
    "NumericGreaterThanEquals": _Operator(_read_number, _number(operator.ge)),
    "DateEquals": _Operator(_read_date, _date(operator.eq)),
    "DateNotEquals": _Operator(_read_date, _date(operator.eq), negated=True),
    "DateLessThan": _Operator(_read_date, _date(operator.lt)),
    "DateLessThanEquals": _Operator(_read_date, _date(operator.le)),
    "DateGreaterThan": _Operator(_read_date, _date(operator.gt)),
    "DateGreaterThanEquals": _Operator(_read_date, _date(operator.ge)),
    "Bool": _Operator(_read_bool, _is),
    "BinaryEquals": _Operator(_read_exact, _equal),
    "IpAddress": _Operator(_read_network, _within),
    "NotIpAddress": _Operator(_read_network, _within, negated=True),
}
