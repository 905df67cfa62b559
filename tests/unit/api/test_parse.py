"""What is malformed gets a 400, never a crash (what is legal: tests/clients/test_shapes.py)."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microvmd.api.errors import SerializationError, UnparsableQuery
from microvmd.api.operations import load_operations
from microvmd.api.parse import parse_query, parse_request
from microvmd.api.routes import Router
from microvmd.model.errors import ApiError

_ROUTER = Router(load_operations())


def _parse(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Any:
    return parse_request(_ROUTER.match(method, path), query, headers, body)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_RUN = "/2025-09-09/microvms"
_MEMBERS = ("imageIdentifier", "idlePolicy", "logging", "maximumDurationInSeconds", "clientToken")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(_MEMBERS), _JSON))
def test_any_json_parses_or_is_refused(document: dict[str, Any]) -> None:
    with contextlib.suppress(SerializationError):
        assert set(_parse("POST", _RUN, "", {}, json.dumps(document).encode())) <= set(_MEMBERS)


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_are_refused(body: bytes) -> None:
    with contextlib.suppress(SerializationError):
        assert isinstance(_parse("POST", _RUN, "", {}, body), dict)


@given(st.sampled_from(["GET", "POST", "PUT", "DELETE"]), st.text(max_size=30), st.text())
def test_any_path_and_query_parse_or_are_refused(method: str, path: str, query: str) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(_parse(method, f"{_RUN}/{path}", query, {}, b""), dict)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "The request body is not valid JSON"),
        (b'{"a": NaN}', "The request body is not valid JSON"),
        (b"[" * 100_000, "The request body is not valid JSON"),
        (b"[]", "Unexpected value where a structure was expected"),
        (b'{"imageIdentifier": 1}', "NUMBER_VALUE cannot be converted to String"),
        (b'{"imageIdentifier": true}', "TRUE_VALUE cannot be converted to String"),
        (b'{"imageIdentifier": "\\ud800"}', "A string is not valid Unicode"),
        (b'{"maximumDurationInSeconds": "1"}', "STRING_VALUE cannot be converted to Integer"),
        (b'{"maximumDurationInSeconds": 1.5}', "NUMBER_VALUE cannot be converted to Integer"),
        (b'{"maximumDurationInSeconds": 1e99}', "The number is out of the range of Integer"),
        (b'{"ingressNetworkConnectors": {}}', "Expected list or null"),
        (b'{"idlePolicy": []}', "Expected a structure"),
    ],
)
def test_refused_body(body: bytes, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        _parse("POST", _RUN, "", {}, body)
    assert caught.value.message == text


def test_unit_expects_null() -> None:
    body = b'{"expirationInMinutes": 5, "allowedPorts": [{"allPorts": true}]}'
    with pytest.raises(SerializationError, match="Expected null"):
        _parse("POST", f"{_RUN}/microvm-1/auth-token", "", {}, body)


def test_null_and_unknown_members_are_absent() -> None:
    body = b'{"imageIdentifier": "x", "idlePolicy": null, "newMember": {"deep": [1]}}'
    assert _parse("POST", _RUN, "", {}, body) == {"imageIdentifier": "x"}


def test_whole_floats_are_integers() -> None:
    assert _parse("POST", _RUN, "", {}, b'{"maximumDurationInSeconds": 60.0}') == {
        "maximumDurationInSeconds": 60
    }


@pytest.mark.parametrize("query", ["nextToken=a==", "nextToken=%zz", "nextToken=%", "a=%ff"])
def test_refused_query(query: str) -> None:
    with pytest.raises(UnparsableQuery):
        parse_query(query)


def test_query_number_must_be_one() -> None:
    for text in ("x", "1_0", "1.5", "%D9%A3", "9" * 5000):
        with pytest.raises(UnparsableQuery):
            _parse("GET", _RUN, f"maxResults={text}", {}, b"")


def test_query_list_and_escapes() -> None:
    arn = "arn:aws:lambda:us-east-1:123456789012:microvm-image:web"
    found = _parse("DELETE", f"/2017-03-31/tags/{arn}", "tagKeys=a&tagKeys=b%3Dc+d", {}, b"")
    assert found == {"Resource": arn, "TagKeys": ["a", "b=c d"]}
