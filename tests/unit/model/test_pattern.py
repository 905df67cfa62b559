"""Wildcards and variables, held against the plainest possible matcher."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.pattern import Pattern, Variable, Wildcard


def plain(pattern: str, value: str) -> bool:
    """By the definition: what does the first character of the pattern stand for?"""
    if not pattern:
        return not value
    if pattern[0] == "*":
        return any(plain(pattern[1:], value[skip:]) for skip in range(len(value) + 1))
    return bool(value) and pattern[0] in ("?", value[0]) and plain(pattern[1:], value[1:])


@given(st.text("ab*?[.\n", max_size=8), st.text("ab[.\n", max_size=8))
def test_as_defined(pattern: str, value: str) -> None:
    assert Pattern.parse(pattern).matches(value, {}) is plain(pattern, value)


@given(st.text(max_size=20))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    with suppress(ValueError):
        Pattern.parse(text).matches("value", {})


def test_case() -> None:
    pattern = Pattern.parse("lambda:Run*")
    assert pattern.matches("LAMBDA:runmicrovm", {}, ignore_case=True)
    assert not pattern.matches("LAMBDA:runmicrovm", {})


def test_variables() -> None:
    pattern = Pattern.parse("home/${aws:UserName}/*")
    assert pattern.pieces == ("home/", Variable("aws:username"), "/", Wildcard.ANY)
    eve = {"aws:username": ("eve",)}
    assert pattern.matches("home/eve/x", eve)
    assert not pattern.matches("home/bob/x", eve)
    assert not pattern.matches("home/${aws:UserName}/x", {})
    assert Pattern.parse("a${x, 'dflt'}").matches("adflt", {})
    assert Pattern.parse("${*}${?}${$}").matches("*?$", {})
    assert Pattern.parse("${aws:UserName}", variables=False).matches("${aws:UserName}", {})


@pytest.mark.parametrize("values", [(), ("a", "b")])
def test_a_variable_needs_one_value(values: tuple[str, ...]) -> None:
    assert not Pattern.parse("${k}").matches("a", {"k": values})


def test_wildcards_in_values_are_letters() -> None:
    assert not Pattern.parse("home/${k}").matches("home/anything", {"k": ("*",)})
    assert Pattern.parse("home/${k}").matches("home/*", {"k": ("*",)})


@pytest.mark.parametrize(
    ("pattern", "arn", "matches"),
    [
        ("*", "arn:aws:s3:::b", True),
        ("arn:aws:lambda:*:1:microvm-image:*", "arn:aws:lambda:r:1:microvm-image:app", True),
        ("arn:aws:lambda:*:microvm-image:app", "arn:aws:lambda:r:1:microvm-image:app", False),
        ("arn:*:lambda:r:1:*", "arn:aws:lambda:r:1:microvm-image:app:1", True),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b/k:with:colons", True),
        ("arn:aws:s3:::b", "arn:aws:s3:::c", False),
        ("arn:aws:s3:::b", "no arn", False),
    ],
)
def test_arns_part_by_part(pattern: str, arn: str, matches: bool) -> None:
    assert Pattern.parse(pattern).matches_arn(arn, {}) is matches


def test_a_colon_in_a_variable_separates_nothing() -> None:
    pattern = Pattern.parse("arn:aws:s3:::${aws:username}/*")
    assert len(pattern.arn_parts()) == 6
    assert pattern.matches_arn("arn:aws:s3:::eve/k", {"aws:username": ("eve",)})


def test_no_pattern_takes_long() -> None:
    """Naive expressions need exponential time for this."""
    started = time.process_time()
    assert not Pattern.parse("*a" * 200 + "b").matches("a" * 5000, {})
    assert time.process_time() - started < 5
