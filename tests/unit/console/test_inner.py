"""The service's own routes, asked within the process: answers, refusals, ends."""

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from microvmd.api.authenticate import Authenticator
from microvmd.api.credentials import KeyRing
from microvmd.api.requests import RequestContext
from microvmd.console.inner import Inner, Refused
from microvmd.model.caller import Caller
from microvmd.model.errors import NotFound
from microvmd.service.routes.extensions import answering

pytestmark = pytest.mark.anyio
ACCOUNT = "111122223333"
CONTEXT = RequestContext(
    ACCOUNT, "us-east-1", "AKIA", "r", datetime.now(UTC), Caller.root(ACCOUNT), "192.0.2.1"
)
_authenticate = Authenticator(KeyRing([]))


class _Endless:
    """An answer that goes on until its reader leaves."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        async def numbers() -> Any:
            try:
                for number in (1, 2, 3):
                    yield json.dumps({"number": number}).encode() + b"\n"
                await asyncio.Event().wait()
            finally:
                self.ended.set()

        return StreamingResponse(numbers())


async def _echo(request: Request) -> Response:
    context, body = await _authenticate(request)
    assert context is CONTEXT
    query = dict(request.query_params)
    return JSONResponse({"method": request.method, "query": query, "body": body.decode()})


async def _refuse(request: Request) -> Response:
    raise NotFound("no such thing")


async def _break(request: Request) -> Response:
    raise RuntimeError("broken")


def _inner(*more: Route) -> Inner:
    return Inner(
        Router(
            [
                Route("/microvmd/v1/echo", _echo, methods=["GET", "POST"]),
                Route("/microvmd/v1/refuse", answering(_refuse)),
                Route("/microvmd/v1/break", _break),
                *more,
            ]
        )
    )


async def test_the_caller_is_vouched_for() -> None:
    found = await _inner().ask(CONTEXT, "POST", "/echo", {"a": "1 &"}, {"b": 2})
    assert found == {"method": "POST", "query": {"a": "1 &"}, "body": '{"b": 2}'}


async def test_refusals_keep_their_code() -> None:
    with pytest.raises(Refused, match="no such thing") as caught:
        await _inner().ask(CONTEXT, "GET", "/refuse")
    assert (caught.value.status, caught.value.name) == (404, "ResourceNotFoundException")
    with pytest.raises(Refused) as caught:
        await _inner().ask(CONTEXT, "GET", "/nothing")
    assert caught.value.status == 404


async def test_a_refusal_keeps_its_document_and_cuts_its_words() -> None:
    document = {"checks": {"edge": "x" * 1000}}

    async def degraded(_: Request) -> Response:
        return JSONResponse(document, status_code=503)

    async def torn(_: Request) -> Response:
        return Response("torn {", status_code=500)

    inner = _inner(Route("/microvmd/v1/degraded", degraded), Route("/microvmd/v1/torn", torn))
    with pytest.raises(Refused) as caught:
        await inner.ask(CONTEXT, "GET", "/degraded")
    assert caught.value.document == document
    assert len(caught.value.message) == 200
    with pytest.raises(Refused, match=r"torn \{") as caught:
        await inner.ask(CONTEXT, "GET", "/torn")
    assert caught.value.document == {}


async def test_a_fault_of_the_route_is_the_askers() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        await _inner().ask(CONTEXT, "GET", "/break")


async def test_who_stops_reading_ends_the_answer() -> None:
    endless = _Endless()
    inner = _inner(Route("/microvmd/v1/endless", endless.__call__))
    async with aclosing(inner.lines(CONTEXT, "/endless", {})) as lines:
        assert [await anext(lines) for _ in range(3)] == [{"number": n} for n in (1, 2, 3)]
    await asyncio.wait_for(endless.ended.wait(), 5)
