"""The ASGI application: who calls, which operation, which handler, what goes back.

The only place where errors become answers. Requests are told apart by the service in their
signature's scope: ``lambda`` is ours, the others go to the relay where there is one.
"""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from microvmd.api.credentials import Credentials, Identity
from microvmd.api.errors import SignatureError, wire_error
from microvmd.api.operations import Operation, load_operations
from microvmd.api.parse import parse_request
from microvmd.api.requests import RequestContext, read_body, signed_request
from microvmd.api.routes import Router
from microvmd.api.serialize import WireResponse, serialize_error, serialize_response
from microvmd.api.sigv4 import Signature, SignedRequest, read_signature, verify
from microvmd.api.validate import validate
from microvmd.model.errors import ApiError, InternalError

SIGNING_NAME = "lambda"

Handler = Callable[[RequestContext, dict[str, Any]], Awaitable[Mapping[str, Any]]]
Clock = Callable[[], datetime]

_log = structlog.get_logger("microvmd.api")


class AwsRelay(Protocol):
    """Answers requests of other AWS services (relay.py); entered before the first request."""

    services: frozenset[str]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def answer(
        self, request: Request, signed: SignedRequest, claim: Signature, request_id: str
    ) -> Response: ...


class IncompleteService(Exception):
    """An operation of the model has no handler, or two."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to, for the log."""

    response: Response
    operation: str
    error: str | None = None


def create_app(
    handlers: Sequence[object],
    credentials: Credentials,
    aws_relay: AwsRelay | None = None,
    *,
    region: str | None = None,
    routes: Sequence[BaseRoute] = (),
    clock: Clock = lambda: datetime.now(UTC),
) -> Starlette:
    """Build the application; IncompleteService when an operation of the model has no handler.

    ``region``: requests signed for another one are refused; None takes any.
    ``routes`` (our own pages, such as ``/microvmd/v1``) are looked at before the AWS surface.
    """
    operations = load_operations()
    service = _Service(operations, handlers, credentials, aws_relay, region, clock)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if aws_relay is not None:
            await aws_relay.start()
        try:
            yield
        finally:
            if aws_relay is not None:
                await aws_relay.stop()

    return Starlette(routes=[*routes, Mount("/", app=service)], lifespan=lifespan)


def dispatch_table(
    operations: Iterable[Operation], handlers: Sequence[object]
) -> dict[str, Handler]:
    """Find the one handler of every operation; IncompleteService names those without."""
    table: dict[str, Handler] = {}
    wrong: list[str] = []
    for operation in operations:
        found = [m for group in handlers if (m := getattr(group, operation.handler_name, None))]
        if len(found) == 1:
            table[operation.name] = found[0]
        else:
            wrong.append(f"{operation.name} has {len(found)} handlers")
    if wrong:
        raise IncompleteService("; ".join(wrong))
    return table


class _Service:
    """The AWS surface as an ASGI application."""

    def __init__(
        self,
        operations: Sequence[Operation],
        handlers: Sequence[object],
        credentials: Credentials,
        relay: AwsRelay | None,
        region: str | None,
        clock: Clock,
    ) -> None:
        self._router = Router(operations)
        self._table = dispatch_table(operations, handlers)
        self._credentials = credentials
        self._relay = relay
        self._region = region
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid.uuid4())
        started = time.monotonic()
        try:
            answer = await self._answer(Request(scope, receive), request_id)
        except ClientDisconnect:
            _log.info("client went away", request_id=request_id)
            return
        answer.response.headers.setdefault("x-amzn-requestid", request_id)
        _log.info(
            "answered",
            operation=answer.operation,
            status=answer.response.status_code,
            error=answer.error,
            milliseconds=round((time.monotonic() - started) * 1000, 1),
            request_id=request_id,
        )
        await answer.response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> Answer:
        try:
            signed = signed_request(request.scope)
            claim = read_signature(signed)
            if self._relay is not None and claim.service in self._relay.services:
                response = await self._relay.answer(request, signed, claim, request_id)
                return Answer(response, claim.service)
            context, body = await self._authenticate(request, signed, claim, request_id)
            return await self._operate(signed, context, body)
        except ApiError as error:
            return _refused(error)

    async def _authenticate(
        self, request: Request, signed: SignedRequest, claim: Signature, request_id: str
    ) -> tuple[RequestContext, bytes]:
        if claim.service != SIGNING_NAME:
            raise SignatureError(
                "InvalidSignatureException",
                f"Credential should be scoped to correct service: '{SIGNING_NAME}'.",
            )
        if self._region is not None and claim.region != self._region:
            raise SignatureError(
                "InvalidSignatureException",
                f"Credential should be scoped to a valid region, not '{claim.region}'. "
                f"This server is '{self._region}'.",
            )
        identity: Identity | None = await self._credentials.find(claim.access_key)
        body = b"" if identity is None else await read_body(request)
        now = self._clock()
        verify(signed, claim, identity, body, now)
        assert identity is not None
        context = RequestContext(
            account=identity.account,
            region=claim.region,
            access_key=identity.access_key,
            request_id=request_id,
            now=now,
        )
        return context, body

    async def _operate(self, signed: SignedRequest, context: RequestContext, body: bytes) -> Answer:
        match = self._router.match(signed.method, signed.path)
        operation = match.operation
        try:
            request = parse_request(match, signed.query, dict(signed.headers), body)
            validate(operation.input, request)
            result = await self._table[operation.name](context, request)
            return Answer(_response(serialize_response(operation, result)), operation.name)
        except ApiError as error:
            return _refused(error, operation)
        except Exception:  # the request border: the log holds the cause, the caller gets an id
            _log.exception(
                "internal error", operation=operation.name, request_id=context.request_id
            )
            hidden = InternalError(
                f"An internal error occurred. The log of microvmd names it under the request id "
                f"{context.request_id}."
            )
            return _refused(hidden, operation)


def _refused(error: ApiError, operation: Operation | None = None) -> Answer:
    wire = wire_error(error, operation)
    name = "-" if operation is None else operation.name
    return Answer(_response(serialize_error(wire)), name, error=wire.code)


def _response(wire: WireResponse) -> Response:
    return Response(wire.body, status_code=wire.status, headers=dict(wire.headers))
