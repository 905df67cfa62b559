"""One operation, whoever asks for it: its shapes, rights and rates, then its handler.

``service.py`` asks with what a signed request held; pages ask by name, as who is logged in.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from microvmd.api.audit import Audit, Call, unaudited
from microvmd.api.errors import UnknownOperation, unwritable, wire_error
from microvmd.api.operations import Operation
from microvmd.api.rates import Gone, Rates
from microvmd.api.requests import RequestContext
from microvmd.api.serialize import response_document
from microvmd.api.validate import validate
from microvmd.control import tracing
from microvmd.control.acting import acting
from microvmd.model.errors import AccessDenied, ApiError, InternalError, StoreUnavailable
from microvmd.model.event import Actor, ActorKind

Handler = Callable[[RequestContext, dict[str, Any]], Awaitable[Mapping[str, Any]]]
Authorize = Callable[[RequestContext, Operation, Mapping[str, Any]], Awaitable[None]]
Observe = Callable[[str, int, float], None]

_log = structlog.get_logger("microvmd.api")


class IncompleteService(Exception):
    """An operation of the model has no handler, or two."""


def unobserved(_operation: str, _status: int, _seconds: float) -> None:
    """Of a server that nobody measures."""


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


@dataclass(frozen=True, slots=True)
class Invoke:
    """Everything between a proven caller and a handler. ``rates`` None lets everybody call."""

    operations: Mapping[str, Operation]
    table: Mapping[str, Handler]
    authorize: Authorize
    rates: Rates | None = None
    observe: Observe = unobserved
    audit: Audit = unaudited

    async def __call__(
        self,
        context: RequestContext,
        operation: Operation,
        request: dict[str, Any],
        gone: Gone,
        parent: str | None = None,
    ) -> Mapping[str, Any]:
        """The handler's result. Raises ApiError, or ClientDisconnect when ``gone`` returns.
        ``parent`` is the ``traceparent`` that the client sent."""
        with (
            bound_contextvars(request_id=context.request_id),
            tracing.call(operation.name, context.request_id, parent),
            acting(_actor(context)),
        ):
            try:
                validate(operation.input, request)
                await self.authorize(context, operation, request)
                if self.rates is not None:
                    await self.rates.admit(context.account, operation.name, gone)
                return await self.table[operation.name](context, request)
            except StoreUnavailable as error:
                raise unwritable(error) from error

    async def named(
        self,
        context: RequestContext,
        name: str,
        request: Mapping[str, Any],
        agent: str = "",
        *,
        live: bool = False,
    ) -> dict[str, Any]:
        """The document that a client would be sent, for a caller within this process.

        ``request`` has the members of the operation's input; those that are None are left out.
        Counted, logged and audited as a client's call is; of what a page asks by itself (``live``)
        only what fails or changes something is audited. Raises ApiError.
        """
        operation = self.operations.get(name)
        if operation is None:
            raise UnknownOperation(f"There is no operation {name}.")
        call = Call(context.request_id, context.region, context.source_ip, agent, context=context)
        call.asks(operation)
        given = {member: value for member, value in request.items() if value is not None}
        call.with_input(operation, given)
        started, status = time.monotonic(), 500
        call.error = "InternalServerException"
        try:
            result = await self(context, operation, given, _never)
            document = response_document(operation, result)
            call.with_output(operation, result)
            status, call.error = operation.status, None
            return document
        except ApiError as error:
            wire = wire_error(error, operation)
            status, call.error, call.message = wire.status, wire.code, error.message
            raise
        except Exception as error:
            _log.exception("internal error", operation=name, request_id=context.request_id)
            raise hidden(context.request_id) from error
        finally:
            self.answered(call, name, status, started, recorded=not (live and call.idle))

    def answered(
        self, call: Call, operation: str, status: int, started: float, *, recorded: bool = True
    ) -> None:
        """Count, record and log a call; ``started`` by the monotonic clock."""
        seconds = time.monotonic() - started
        self.observe(operation, status, seconds)
        if recorded:
            self.audit(call)
        _log.info(
            "answered",
            operation=operation,
            status=status,
            error=call.error,
            milliseconds=round(seconds * 1000, 1),
            request_id=call.request_id,
        )


async def unrestricted_only(context: RequestContext, operation: Operation, request: object) -> None:
    """Of a server that cannot judge: whoever may do everything needs no judgement."""
    if context.caller is None or not context.caller.unrestricted:
        raise AccessDenied("This server lets callers in that may do everything, and no others.")


def hidden(request_id: str) -> InternalError:
    """What a caller is told of a fault of ours: where the log has it, and nothing more."""
    return InternalError(
        "An internal error occurred. The log of microvmd names it under the request id "
        f"{request_id}."
    )


async def _never() -> None:
    """A caller within the process does not go away: its task is cancelled."""
    await asyncio.Event().wait()


def _actor(context: RequestContext) -> Actor:
    caller = None if context.caller is None else context.caller.arn
    return Actor(ActorKind.CALLER, caller, context.request_id, context.source_ip)
