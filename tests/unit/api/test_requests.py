"""Raw path, header encodings, limits of a body."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from microvmd.api import requests
from microvmd.api.errors import BodyTimeout, BodyTooLarge
from microvmd.api.requests import read_body, signed_request


def _scope(**changed: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/a:b",
        "raw_path": b"/a%3Ab",
        "query_string": b"x=%20",
        "headers": [(b"Host", b"h"), (b"x-utf", "ü".encode()), (b"x-latin", b"\xfc")],
        **changed,
    }


def test_signed_request_is_what_came() -> None:
    found = signed_request(_scope())
    assert (found.path, found.query) == ("/a%3Ab", "x=%20")
    assert found.headers == (("host", "h"), ("x-utf", "ü"), ("x-latin", "ü"))
    assert found.header("x-utf") == "ü"
    assert found.header("absent") is None


def test_a_server_without_raw_path() -> None:
    assert signed_request(_scope(raw_path=None)).path == "/a:b"


def _request(*chunks: bytes, hangs: bool = False) -> Request:
    pending = list(chunks)

    async def receive() -> dict[str, Any]:
        if not pending and hangs:
            await asyncio.Event().wait()
        body = pending.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(pending) or hangs}

    return Request(_scope(), receive)


@pytest.mark.anyio
async def test_body_within_its_limit() -> None:
    assert await read_body(_request(b"ab", b"c"), limit=3) == b"abc"


@pytest.mark.anyio
async def test_body_beyond_its_limit() -> None:
    with pytest.raises(BodyTooLarge):
        await read_body(_request(b"ab", b"cd"), limit=3)


@pytest.mark.anyio
async def test_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.01)
    with pytest.raises(BodyTimeout):
        await read_body(_request(b"ab", hangs=True))
