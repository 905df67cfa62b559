"""Patterns of names: one form for each name, and what a pattern allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.names import LONGEST, common, matches, normal, parse_pattern

labels = st.text("abz09_", min_size=1, max_size=6)
names = st.lists(labels, min_size=2, max_size=4).map(".".join).filter(lambda n: normal(n) == n)
patterns = names | names.map("*.{}".format)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("PyPI.Example.", "pypi.example"),
        ("*.Example.org", "*.example.org"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("registry", "registry"),
    ],
)
def test_patterns_have_one_form(text: str, pattern: str) -> None:
    assert parse_pattern(text) == pattern
    assert parse_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*",
        "*.",
        "*.org",
        "a.*.org",
        "*.*.example.org",
        "*x.example.org",
        "a..b",
        ".example.org",
        "example.org..",
        "-a.example",
        "a-.example",
        "bücher.example",
        "a b.example",
        "a/b.example",
        "example.org\n",
        "198.51.100.7",
        "x" * 64 + ".example",
        "x." * 127 + "org",
    ],
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("pypi.example", "pypi.example", True),
        ("pypi.example", "a.pypi.example", False),
        ("pypi.example", "xpypi.example", False),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "a.b.c.d.example.org", True),
        ("*.example.org", "a.b.c.d.e.example.org", False),
        ("*.example.org", "aexample.org", False),
        ("*.example.org", "a.example.org.evil", False),
        ("*.example.org", "x" * 63 + ".example.org", True),
        ("*.example.org", "x" * 63 + "." + "x" * 20 + ".example.org", False),
    ],
)
def test_what_a_pattern_allows(pattern: str, name: str, allowed: bool) -> None:
    assert matches(pattern, name) is allowed


@given(st.text(max_size=80))
def test_any_text_is_a_name_in_one_form_or_none(text: str) -> None:
    name = normal(text)
    if name is not None:
        assert normal(name.upper() + ".") == normal(name) == name
        assert len(name) <= LONGEST


@given(patterns, patterns, names, st.sampled_from(["", "a.", "b.a."]))
def test_what_two_patterns_allow_both(one: str, other: str, name: str, prefix: str) -> None:
    for asked in (name, prefix + one.removeprefix("*."), prefix + other.removeprefix("*.")):
        both = any(matches(pattern, asked) for pattern in common(one, other))
        assert both is (matches(one, asked) and matches(other, asked))
