"""Calls of the service's own routes are recorded, without their secrets, or the service does not
start."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from microvmd.api.audit import Call, record
from microvmd.api.authenticate import Authenticator, wall_clock
from microvmd.api.credentials import Identity, KeyRing
from microvmd.api.requests import RequestContext
from microvmd.console.inner import Inner, Refused
from microvmd.model.caller import Caller
from microvmd.model.errors import ValidationError
from microvmd.service.routes import PREFIX
from microvmd.service.routes.audited import Nameless, audited
from microvmd.service.routes.extensions import answering

pytestmark = pytest.mark.anyio

KEY = Identity("AKIDEXAMPLE", "wJalrXUtnFEMI", "123456789012")
CONTEXT = RequestContext(
    KEY.account, "us-east-1", KEY.access_key, "r", wall_clock(), Caller.root(KEY.account)
)
KEYS = f"{PREFIX}/accounts/{{account}}/keys"


@asynccontextmanager
async def _client(calls: list[Call]) -> AsyncIterator[httpx.AsyncClient]:
    authenticate = Authenticator(KeyRing([KEY]))

    async def create(request: Request) -> Response:
        await authenticate(request)
        key = {"access_key": "AKIANEW", "secret": "fresh-secret", "user": "ann", "account": "1"}
        return JSONResponse({"key": key})

    async def refuse(request: Request) -> Response:
        await authenticate(request)
        raise ValidationError("since must be seconds")

    async def fail(request: Request) -> Response:
        raise RuntimeError("a fault of ours, with fresh-secret")

    routes = [
        Route(KEYS, answering(create), methods=["POST"]),
        Route(f"{PREFIX}/events", answering(refuse)),
        Route(f"{PREFIX}/usage", answering(fail)),
    ]
    app = Starlette(routes=audited(routes, calls.append, "us-east-1"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport) as client:
        yield client


def _signed(method: str, path: str, body: bytes = b"", secret: str = "") -> httpx.Request:
    request = AWSRequest(method, f"http://127.0.0.1:8480{path}", data=body)
    credentials = Credentials(KEY.access_key, secret or KEY.secret_key)
    SigV4Auth(credentials, "lambda", "us-east-1").add_auth(request)
    headers = {name: str(value) for name, value in request.headers.items()}
    return httpx.Request(method, str(request.url), headers=headers, content=body)


async def test_who_did_what_and_no_secret() -> None:
    calls: list[Call] = []
    body = b'{"user": "ann", "secret": "fresh-secret", "other": "fresh-secret"}'
    async with _client(calls) as client:
        answer = await client.send(_signed("POST", KEYS.format(account="1"), body))
    made = record(calls[0], wall_clock())
    assert (made["eventSource"], made["eventName"]) == ("iam.amazonaws.com", "CreateAccessKey")
    assert made["requestParameters"] == {"account": "1", "user": "ann"}
    key = {"access_key": "AKIANEW", "user": "ann", "account": "1"}
    assert made["responseElements"] == {"accessKey": key}
    assert made["userIdentity"]["type"] == "Root"
    assert made["requestID"] == answer.headers["x-amzn-requestid"]
    assert "fresh-secret" not in str(made)


async def test_refusals_and_faults() -> None:
    calls: list[Call] = []
    async with _client(calls) as client:
        await client.send(_signed("GET", f"{PREFIX}/events?since=x"))
        await client.send(_signed("GET", f"{PREFIX}/events", secret="wrong"))
        answer = await client.get(f"http://127.0.0.1:8480{PREFIX}/usage")
        assert answer.status_code == 500
    bad, unproven, fault = [record(one, wall_clock()) for one in calls]
    assert (bad["errorCode"], bad["errorMessage"]) == (
        "ValidationException",
        "since must be seconds",
    )
    assert bad["requestParameters"] == {"since": "x"}
    claimed = {"type": "Unknown", "accountId": KEY.account, "accessKeyId": KEY.access_key}
    assert unproven["userIdentity"] == claimed
    assert unproven["recipientAccountId"] == KEY.account
    assert unproven["errorCode"] == "InvalidSignatureException"
    assert fault["errorCode"] == "InternalError"
    assert "fresh-secret" not in str(fault)


async def test_what_a_page_asks_by_itself_is_recorded_when_it_fails() -> None:
    calls: list[Call] = []
    authenticate = Authenticator(KeyRing([KEY]))

    async def events(request: Request) -> Response:
        await authenticate(request)
        if request.query_params:
            raise ValidationError("since must be seconds")
        return JSONResponse({})

    routes = [Route(f"{PREFIX}/events", answering(events))]
    inner = Inner(Router(audited(routes, calls.append, "us-east-1")))
    await inner.ask(CONTEXT, "GET", "/events", live=True)
    assert calls == []
    await inner.ask(CONTEXT, "GET", "/events")
    with pytest.raises(Refused):
        await inner.ask(CONTEXT, "GET", "/events", {"since": "x"}, live=True)
    assert [call.error for call in calls] == [None, "ValidationException"]


def _forget(_: Call) -> None:
    """Nothing is called here."""


def test_a_route_without_a_name_is_a_fault() -> None:
    async def answer(_: Request) -> Response:
        return Response()

    with pytest.raises(Nameless, match="DELETE /microvmd/v1/new"):
        audited([Route(f"{PREFIX}/new", answer, methods=["DELETE"])], _forget, "us-east-1")
    (open_one,) = audited([Route(f"{PREFIX}/health", answer)], _forget, "us-east-1")
    assert isinstance(open_one, Route)
