"""Whose page asked, as browsers say it."""

import pytest
from starlette.datastructures import Headers

from microvmd.console.defence import own_origin, same_token


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({"sec-fetch-site": "same-origin", "host": "a", "origin": "https://proxy"}, True),
        ({"sec-fetch-site": "same-site", "host": "a", "origin": "http://a"}, False),
        ({"sec-fetch-site": "cross-site", "host": "a"}, False),
        ({"host": "a:8480", "origin": "http://a:8480"}, True),
        ({"host": "a:8480", "origin": "http://a"}, False),
        ({"host": "a", "origin": "null"}, False),
        ({"host": "a"}, False),
        ({}, False),
    ],
)
def test_own_origin(headers: dict[str, str], own: bool) -> None:
    assert own_origin(Headers(headers)) is own


def test_tokens() -> None:
    assert same_token("abc", "abc")
    for wrong in (None, "", "abd", "abcd", "äbc"):
        assert not same_token("abc", wrong)
