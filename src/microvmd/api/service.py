"""The ASGI application: who calls, which operation, which handler, what goes back.

The only place where errors become answers. Requests are told apart by the service in their
signature's scope: ``lambda`` is ours, the others go to the relay where there is one.
"""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from microvmd.api.audit import Audit, Call, of_foreign, unaudited
from microvmd.api.authenticate import Authenticator, Clock, wall_clock
from microvmd.api.credentials import Credentials
from microvmd.api.errors import UnknownOperation, UnparsableQuery, unwritable, wire_error
from microvmd.api.invoke import (
    Authorize,
    Invoke,
    Observe,
    dispatch_table,
    hidden,
    unobserved,
    unrestricted_only,
)
from microvmd.api.operations import Operation, load_operations
from microvmd.api.parse import parse_query, parse_request
from microvmd.api.proven import claimed_account, proven
from microvmd.api.rates import Rates
from microvmd.api.requests import RequestContext, address_of, gone_away, signed_request
from microvmd.api.routes import Router
from microvmd.api.serialize import WireResponse, serialize_error, serialize_response
from microvmd.api.signed import Signature, SignedRequest
from microvmd.api.sigv4 import read_signature
from microvmd.model.errors import ApiError, StoreUnavailable

Pages = Callable[[Invoke], Sequence[BaseRoute]]
"""Makes routes that call operations themselves."""

_log = structlog.get_logger("microvmd.api")


class AwsRelay(Protocol):
    """Answers requests of other AWS services (local/relay.py); entered before the first request."""

    services: frozenset[str]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def answer(
        self, request: Request, signed: SignedRequest, claim: Signature, request_id: str
    ) -> Response: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to, for the log."""

    response: Response
    operation: str
    error: str | None = None
    message: str | None = None


def create_app(
    handlers: Sequence[object],
    credentials: Credentials,
    aws_relay: AwsRelay | None = None,
    *,
    region: str | None = None,
    routes: Sequence[BaseRoute] = (),
    clock: Clock = wall_clock,
    authorize: Authorize | None = None,
    rates: Rates | None = None,
    observe: Observe = unobserved,
    audit: Audit = unaudited,
    pages: Pages | None = None,
) -> Starlette:
    """Build the application; IncompleteService when an operation of the model has no handler.

    ``region``: requests signed for another one are refused; None takes any.
    ``authorize`` raises AccessDenied where a caller may not; without it only who may do
    everything is let in.
    ``routes`` (our own pages, such as ``/microvmd/v1``) are looked at before the AWS surface.
    ``observe`` is told the operation, the status and the seconds of each answer.
    ``audit`` is told each call, refused ones too, before it is answered; it must not wait.
    ``rates`` holds back who calls too often; None lets everybody call.
    ``pages`` are more routes, made with the way to call operations.
    """
    operations = load_operations()
    authenticator = Authenticator(credentials, region, clock)
    invoke = Invoke(
        {operation.name: operation for operation in operations},
        dispatch_table(operations, handlers),
        authorize or unrestricted_only,
        rates,
        observe,
        audit,
    )
    service = _Service(operations, invoke, authenticator, aws_relay, region or "")
    if pages is not None:
        routes = [*routes, *pages(invoke)]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if aws_relay is not None:
            await aws_relay.start()
        try:
            yield
        finally:
            if aws_relay is not None:
                await aws_relay.stop()

    app = Starlette(routes=list(routes), lifespan=lifespan)
    # Not a route: Starlette matches decoded paths, and those with a line break not at all.
    app.router.default = service
    app.router.redirect_slashes = False
    return app


class _Service:
    """The AWS surface as an ASGI application."""

    def __init__(
        self,
        operations: Sequence[Operation],
        invoke: Invoke,
        authenticator: Authenticator,
        relay: AwsRelay | None,
        region: str,
    ) -> None:
        self._router = Router(operations)
        self._invoke = invoke
        self._authenticator = authenticator
        self._relay = relay
        self._region = region

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        request, request_id = Request(scope, receive), str(uuid.uuid4())
        agent = request.headers.get("user-agent")
        call = Call(request_id, self._region, address_of(request), agent)
        started = time.monotonic()
        try:
            answer = await self._answer(request, call)
        except ClientDisconnect:
            _log.info("client went away", request_id=request_id)
            return
        answer.response.headers.setdefault("x-amzn-requestid", request_id)
        call.error, call.message = answer.error, answer.message
        self._invoke.answered(call, answer.operation, answer.response.status_code, started)
        await answer.response(scope, receive, send)

    async def _answer(self, request: Request, call: Call) -> Answer:
        request_id = call.request_id
        try:
            signed = signed_request(request.scope)
            claim = call.claim = read_signature(signed)
            if self._relay is not None and claim.service in self._relay.services:
                return await self._relayed(self._relay, request, signed, call, claim)
            identity = await self._authenticator.identify(request, claim)
            # Recorded: a query that does not parse is told before the signature is looked at.
            parse_query(signed.query)
            call.context, body = await self._authenticator.check(
                request, signed, claim, identity, request_id
            )
            return await self._operate(request, signed, call.context, body, call)
        except ApiError as error:
            if call.context is None:
                self._name(call, request)
            return _refused(error)
        except StoreUnavailable as error:
            return _refused(unwritable(error))
        except ClientDisconnect:
            raise
        except Exception:  # the request border: the log holds the cause, the caller gets an id
            _log.exception("internal error", request_id=request_id)
            return _failed(request_id)

    async def _relayed(
        self,
        relay: AwsRelay,
        request: Request,
        signed: SignedRequest,
        call: Call,
        claim: Signature,
    ) -> Answer:
        response = await relay.answer(request, signed, claim, call.request_id)
        call.account = claimed_account(request.scope)
        of_foreign(call, claim, proven(request.scope))
        error = str(response.status_code) if response.status_code >= 400 else None
        return Answer(response, claim.service, error)

    def _name(self, call: Call, request: Request) -> None:
        """What a caller who is not proven wanted, as far as that can be told."""
        call.account = claimed_account(request.scope)
        with suppress(UnknownOperation, UnparsableQuery):
            signed = signed_request(request.scope)
            call.asks(self._router.match(signed.method, signed.path).operation)

    async def _operate(
        self,
        asked: Request,
        signed: SignedRequest,
        context: RequestContext,
        body: bytes,
        call: Call,
    ) -> Answer:
        match = self._router.match(signed.method, signed.path)
        operation = match.operation
        call.asks(operation)
        try:
            request = parse_request(match, signed.query, dict(signed.headers), body)
            call.with_input(operation, request)
            gone, parent = partial(gone_away, asked), signed.header("traceparent")
            result = await self._invoke(context, operation, request, gone, parent)
            response = _response(serialize_response(operation, result))
            call.with_output(operation, result)
            return Answer(response, operation.name)
        except ApiError as error:
            return _refused(error, operation)
        except ClientDisconnect:
            raise
        except Exception:  # as above, with the names that this operation has for it
            _log.exception(
                "internal error", operation=operation.name, request_id=context.request_id
            )
            return _failed(context.request_id, operation)


def _refused(error: ApiError, operation: Operation | None = None) -> Answer:
    wire = wire_error(error, operation)
    name = "-" if operation is None else operation.name
    return Answer(_response(serialize_error(wire)), name, wire.code, error.message)


def _failed(request_id: str, operation: Operation | None = None) -> Answer:
    return _refused(hidden(request_id), operation)


def _response(wire: WireResponse) -> Response:
    return Response(wire.body, status_code=wire.status, headers=dict(wire.headers))
