"""The application from signed bytes to bytes: dispatch, refusals, limits, faults of a handler."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from microvmd.api.audit import Call, record
from microvmd.api.credentials import Identity, KeyRing
from microvmd.api.invoke import IncompleteService, dispatch_table
from microvmd.api.local.relay import Relay
from microvmd.api.operations import Operation, load_operations
from microvmd.api.requests import BODY_LIMIT, RequestContext
from microvmd.api.service import create_app
from microvmd.model.errors import NotFound, StoreUnavailable, ValidationError

_KEY = Identity("AKIDEXAMPLE", "secret", "123456789012")
_RUNS = "/2025-09-09/microvms"
_STARTED = datetime(2026, 7, 30, tzinfo=UTC)


class _Answers:
    """Handles every operation with one function, and keeps what it was asked."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Mapping[str, Any]]) -> None:
        self._names = {operation.handler_name: operation for operation in load_operations()}
        self._answer = answer
        self.asked: list[tuple[RequestContext, dict[str, Any]]] = []

    def __getattr__(
        self, name: str
    ) -> Callable[[RequestContext, dict[str, Any]], Awaitable[Mapping[str, Any]]]:
        if name not in self._names:
            raise AttributeError(name)

        async def answer(context: RequestContext, request: dict[str, Any]) -> Mapping[str, Any]:
            self.asked.append((context, request))
            return self._answer(name, request)

        return answer


def _signed(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    key: Identity = _KEY,
    service: str = "lambda",
    region: str = "us-east-1",
) -> httpx.Request:
    request = AWSRequest(method, f"http://127.0.0.1:8480{path}", data=body)
    credentials = Credentials(key.access_key, key.secret_key, key.session_token)
    SigV4Auth(credentials, service, region).add_auth(request)
    headers = {name: str(value) for name, value in request.headers.items()}
    return httpx.Request(method, str(request.url), headers=headers, content=body)


async def _ask(
    answers: _Answers, request: httpx.Request, *, region: str | None = None
) -> httpx.Response:
    app = create_app([answers], KeyRing([_KEY]), region=region)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.send(request)


def _refuse(name: str, request: dict[str, Any]) -> Mapping[str, Any]:
    raise NotFound(f"MicroVM not found: {request['microvmIdentifier']}")


def _nothing(name: str, request: dict[str, Any]) -> Mapping[str, Any]:
    return {}


def _items(name: str, request: dict[str, Any]) -> Mapping[str, Any]:
    return {"items": []}


@pytest.mark.anyio
async def test_handler_gets_context_and_request() -> None:
    answers = _Answers(_items)
    response = await _ask(answers, _signed("GET", f"{_RUNS}?maxResults=5"))
    assert response.status_code == 200
    assert response.content == b'{"nextToken":null,"items":[]}'
    assert response.headers["content-type"] == "application/json"
    context, request = answers.asked[0]
    assert request == {"maxResults": 5}
    assert (context.account, context.region) == ("123456789012", "us-east-1")
    assert context.request_id == response.headers["x-amzn-requestid"]


@pytest.mark.anyio
async def test_model_error_becomes_a_wire_error() -> None:
    response = await _ask(_Answers(_refuse), _signed("GET", f"{_RUNS}/microvm-1"))
    assert response.status_code == 404
    assert response.headers["x-amzn-errortype"] == "ResourceNotFoundException"
    assert response.json() == {
        "message": "MicroVM not found: microvm-1",
        "resourceType": None,
        "resourceId": None,
    }


@pytest.mark.anyio
async def test_fault_of_a_handler_is_hidden() -> None:
    def fail(name: str, request: dict[str, Any]) -> Mapping[str, Any]:
        raise RuntimeError("secret detail")

    response = await _ask(_Answers(fail), _signed("GET", _RUNS))
    assert response.status_code == 500
    assert response.headers["x-amzn-errortype"] == "InternalServerException"
    assert response.headers["x-amzn-requestid"] in response.json()["message"]
    assert "secret" not in response.text


@pytest.mark.anyio
async def test_store_that_does_not_work_is_told_and_may_be_asked_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(name: str, request: dict[str, Any]) -> Mapping[str, Any]:
        raise StoreUnavailable("the record cannot be written: its disk is full")

    response = await _ask(_Answers(fail), _signed("GET", _RUNS))
    assert response.status_code == 500
    assert response.headers["x-amzn-errortype"] == "InternalServerException"
    assert int(response.headers["retry-after"]) > 0
    assert "its disk is full" in response.json()["message"]
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.anyio
async def test_result_that_does_not_fit_is_an_internal_error() -> None:
    response = await _ask(_Answers(_nothing), _signed("GET", f"{_RUNS}/microvm-1"))
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (
        500,
        "InternalServerException",
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (
            partial(httpx.Request, "GET", f"http://h{_RUNS}"),
            403,
            "MissingAuthenticationTokenException",
        ),
        (
            partial(_signed, "GET", _RUNS, key=Identity("AKIDOTHER", "secret", "1")),
            403,
            "UnrecognizedClientException",
        ),
        (
            partial(_signed, "GET", _RUNS, key=Identity("AKIDEXAMPLE", "wrong", "1")),
            403,
            "InvalidSignatureException",
        ),
        (partial(_signed, "GET", _RUNS, service="ec2"), 403, "InvalidSignatureException"),
        (partial(_signed, "GET", _RUNS, region="eu-west-1"), 403, "InvalidSignatureException"),
        (partial(_signed, "GET", "/nowhere"), 404, "UnknownOperationException"),
        (
            partial(httpx.Request, "GET", f"http://h{_RUNS}/%zz"),
            403,
            "MissingAuthenticationTokenException",
        ),
        (partial(_signed, "GET", f"{_RUNS}/%zz"), 400, "ValidationException"),
        (partial(_signed, "POST", _RUNS, b"{"), 400, "SerializationException"),
        (partial(_signed, "POST", _RUNS, b"{}"), 400, "ValidationException"),
        (partial(_signed, "GET", f"{_RUNS}?nextToken=a=="), 400, "ValidationException"),
        (
            partial(_signed, "POST", _RUNS, b" " * (BODY_LIMIT + 1)),
            413,
            "RequestEntityTooLargeException",
        ),
    ],
)
async def test_refusals(request_: Callable[[], httpx.Request], status: int, code: str) -> None:
    # Signed now: what was signed when the tests were collected may be too old by its turn.
    answers = _Answers(_items)
    response = await _ask(answers, request_(), region="us-east-1")
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (status, code)
    assert not answers.asked


@pytest.mark.anyio
async def test_unparsable_query_has_no_message() -> None:
    response = await _ask(_Answers(_items), _signed("GET", f"{_RUNS}?nextToken=a=="))
    assert response.content == b'{"message":null}'


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "content"),
    [
        ("POST", f"{_RUNS}/microvm-1/suspend", b"", 200, b"{}"),
        (
            "POST",
            "/2017-03-31/tags/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Amicrovm-image%3Aw",
            b'{"Tags":{"a":"b"}}',
            204,
            b"",
        ),
    ],
)
async def test_empty_answers(
    method: str, path: str, body: bytes, status: int, content: bytes
) -> None:
    response = await _ask(_Answers(_nothing), _signed(method, path, body))
    assert (response.status_code, response.content) == (status, content)


def test_start_is_refused_when_an_operation_has_no_handler() -> None:
    with pytest.raises(IncompleteService, match="RunMicrovm has 0 handlers"):
        create_app([object()], KeyRing([]))


def test_start_is_refused_when_an_operation_has_two_handlers() -> None:
    answers = _Answers(_nothing)
    with pytest.raises(IncompleteService, match="RunMicrovm has 2 handlers"):
        dispatch_table(load_operations(), [answers, answers])


_OPERATIONS = load_operations()
_WORD = st.text(st.characters(codec="ascii", exclude_characters="/?#%."), min_size=1, max_size=8)


@given(st.sampled_from(_OPERATIONS), _WORD, st.binary(max_size=40), _WORD)
@settings(max_examples=100, deadline=None)
def test_malformed_requests_never_crash(
    operation: Operation, word: str, body: bytes, query: str
) -> None:
    """Whatever comes behind a good signature is answered by the handler or by a modelled 4xx."""
    parts = (word if part.startswith("{") else part for part in operation.path)
    path = f"/{'/'.join(quote(part) for part in parts)}?nextToken={quote(query, safe='')}"
    known = {shape.name for shape in operation.errors}
    response = anyio.run(_ask, _Answers(_refuse_all), _signed(operation.method, path, body))
    name = response.headers["x-amzn-errortype"]
    assert 400 <= response.status_code < 500
    assert name in known | {"SerializationException", "ValidationException"}
    assert json.loads(response.content).keys() & {"message", "Message"}


def _refuse_all(name: str, request: dict[str, Any]) -> Mapping[str, Any]:
    raise ValidationError(json.dumps(request, default=str))


@pytest.mark.anyio
async def test_a_claim_tells_its_account_and_no_region() -> None:
    """What is refused before the signature is looked at is told to whose key it names, too."""
    calls: list[Call] = []
    ring = KeyRing([_KEY])
    relay = Relay(Path("/nowhere"), ring, _KEY.account)
    app = create_app([_Answers(_items)], ring, relay, region="us-east-1", audit=calls.append)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport) as client:
        for request in (
            _signed("GET", _RUNS, region="x" * 1000),
            _signed("GET", _RUNS, service="ec2"),
            _signed("GET", f"{_RUNS}?nextToken=a=="),
            _signed("GET", "/bucket", service="s3", key=Identity(_KEY.access_key, "wrong", "1")),
            _signed("GET", "/moto-api/reset", service="s3"),
        ):
            await client.send(request)
    assert len(calls) == 5
    told = [record(call, _STARTED) for call in calls]
    assert {one["awsRegion"] for one in told} == {"us-east-1"}
    assert {one["recipientAccountId"] for one in told} == {_KEY.account}


@pytest.mark.anyio
async def test_every_call_is_audited() -> None:
    calls: list[Call] = []
    app = create_app([_Answers(_refuse)], KeyRing([_KEY]), audit=calls.append)
    transport = httpx.ASGITransport(app=app)
    unknown = Identity("AKIDOTHER", "secret", "1")
    wrong = Identity("AKIDEXAMPLE", "wrong", "1")
    async with httpx.AsyncClient(transport=transport) as client:
        answer = await client.send(_signed("GET", f"{_RUNS}/microvm-1"))
        for request in (
            _signed("GET", _RUNS, key=wrong),
            _signed("GET", "/nowhere", key=unknown),
            httpx.Request("GET", f"http://h{_RUNS}"),
            _signed("GET", "/nowhere"),
            _signed("POST", _RUNS, b"{"),
        ):
            await client.send(request)
    told = [(call.name, call.account, call.context is not None, call.error) for call in calls]
    assert calls[0].request_id == answer.headers["x-amzn-requestid"]
    assert calls[0].parameters == {"microvmIdentifier": "microvm-1"}
    assert told == [
        ("GetMicrovm", None, True, "ResourceNotFoundException"),
        ("ListMicrovms", "123456789012", False, "InvalidSignatureException"),
        ("UnknownOperation", None, False, "UnrecognizedClientException"),
        ("ListMicrovms", None, False, "MissingAuthenticationTokenException"),
        ("UnknownOperation", None, True, "UnknownOperationException"),
        ("RunMicrovm", None, True, "SerializationException"),
    ]
