"""What the commands ask the service beyond AWS: health, logs that follow, facts about one MicroVM.

Served under ``/microvmd/v1`` on the API's port, signed like every AWS call (SigV4, service
``lambda``); only health answers unsigned, so that a load balancer may ask. The AWS surface itself
stays exact: nothing here changes an AWS answer.

``GET /microvmd/v1/health``
    ``{"status": "ok", "version": ..., "checks": {...}}``; 503 when the status is another one.
``GET /microvmd/v1/microvms/<id>``
    the VMM's pid, the address that the edge dials, times by step in ms; ``guest.*`` is the guest's.
``GET /microvmd/v1/logs?group=&stream=&since=&follow=``
    one JSON object a line: ``{"time", "stream", "message"}``, of all streams of the group if none
    is named. ``since`` is in seconds since the epoch. With ``follow=true`` the answer ends with the
    client. A build logs to the stream ``build/<version>/<buildId>`` of its image's group.
"""

import contextlib
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from microvmd import __version__
from microvmd.api.errors import unwritable, wire_error
from microvmd.api.requests import RequestContext
from microvmd.api.serialize import serialize_error
from microvmd.messages.node_requests import LogLine
from microvmd.model.errors import ApiError, StoreUnavailable, ValidationError
from microvmd.service.routes import PREFIX

T = TypeVar("T")

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
MOST_LAST = 1000
LATEST_S = 1e11
"""What comes behind is no time in seconds: milliseconds, by mistake."""


@dataclass(frozen=True, slots=True)
class Health:
    """``checks`` names each part (api, edge, node, store) and what is the matter, or ``ok``."""

    checks: Mapping[str, str]

    @property
    def status(self) -> str:
        return "ok" if set(self.checks.values()) <= {"ok"} else "degraded"


@dataclass(frozen=True, slots=True)
class VmmFacts:
    """The process that emulates the machine. ``pss_bytes`` is its share of memory."""

    pid: int
    start_time: int
    pss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MicrovmFacts:
    """What AWS does not tell about a MicroVM.

    ``timings`` holds ms by step of the last start (``started``: a run or a resume) and of the last
    suspend (``suspended``); steps named ``guest.<step>`` were spent in the guest, all others in
    microvmd and the VMM. They are forgotten when the service restarts.
    """

    microvm_id: str
    state: str
    generation: int
    log_group: str
    log_stream: str
    address: str | None = None
    vmm: VmmFacts | None = None
    timings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    memory_mib: int = 0
    """Its baseline."""
    image_bytes: int = 0
    """Of the image snapshot that a run reads."""
    stored_bytes: int = 0
    """Of its own last suspend snapshot, which a resume reads."""


class Facts(Protocol):
    """Where the answers come from. Errors are the API's (NotFound, ...)."""

    async def health(self) -> Health: ...

    async def microvm(self, account: str, microvm_id: str) -> MicrovmFacts: ...

    def logs(
        self, account: str, group: str, stream: str | None, *, since: float, follow: bool
    ) -> AsyncGenerator[LogLine, None]: ...


Authenticate = Callable[[Request], Awaitable[tuple[RequestContext, bytes]]]
"""Raises an ApiError (AccessDenied, SignatureError) unless the request is signed by a known key."""


class Authorize(Protocol):
    """Raises AccessDenied unless the caller may do this (api/authorize.py)."""

    async def microvm(self, context: RequestContext, action: str, microvm_id: str) -> None: ...

    def thing(self, context: RequestContext, action: str, resource: str) -> None: ...


def extension_routes(facts: Facts, authenticate: Authenticate, authorize: Authorize) -> list[Route]:
    """The routes to mount beside the AWS operations. Rights are those of the nearest AWS call."""

    async def health(_: Request) -> Response:
        found = await facts.health()
        body = {"status": found.status, "version": __version__, "checks": dict(found.checks)}
        return JSONResponse(body, status_code=200 if found.status == "ok" else 503)

    async def microvm(request: Request) -> Response:
        context, _ = await authenticate(request)
        microvm_id = request.path_params["microvm_id"]
        await authorize.microvm(context, "lambda:GetMicrovm", microvm_id)
        return JSONResponse(asdict(await facts.microvm(context.account, microvm_id)))

    async def logs(request: Request) -> Response:
        context, _ = await authenticate(request)
        query = _LogQuery.of(request)
        authorize.thing(context, *query.right(context))
        lines = facts.logs(
            context.account, query.group, query.stream, since=query.since, follow=query.follow
        )
        found = _ndjson(lines, lambda line: json.dumps(asdict(line), ensure_ascii=False))
        return StreamingResponse(found, media_type=NDJSON)

    return [
        Route(f"{PREFIX}/health", answering(health)),
        Route(f"{PREFIX}/microvms/{{microvm_id}}", answering(microvm)),
        Route(f"{PREFIX}/logs", answering(logs)),
    ]


@dataclass(frozen=True, slots=True)
class _LogQuery:
    group: str
    stream: str | None
    since: float
    follow: bool

    def right(self, context: RequestContext) -> tuple[str, str]:
        """The action and resource that CloudWatch Logs has for this."""
        group = f"arn:aws:logs:{context.region}:{context.account}:log-group:{self.group}"
        if self.stream is None:
            return "logs:FilterLogEvents", f"{group}:*"
        return "logs:GetLogEvents", f"{group}:log-stream:{self.stream}"

    @classmethod
    def of(cls, request: Request) -> "_LogQuery":
        query = request.query_params
        group = query.get("group")
        if not group:
            raise ValidationError("group is needed: name the log to read")
        since = moment_of(request, "since") or 0
        return cls(group, query.get("stream") or None, since, follows(request))


def moment_of(request: Request, name: str) -> float | None:
    """A query member in seconds since the epoch; None when it is not given."""
    given = request.query_params.get(name)
    if not given:
        return None
    try:
        moment = float(given)
    except ValueError:
        moment = math.nan
    if not moment < LATEST_S:
        raise ValidationError(f"{name} must be seconds since the epoch")
    return moment


def last_of(request: Request) -> int | None:
    """How many of the newest are asked for; None: all."""
    given = request.query_params.get("last")
    if not given:
        return None
    if not (
        given.isascii() and given.isdigit() and len(given) <= 4 and 1 <= int(given) <= MOST_LAST
    ):
        raise ValidationError(f"last must be a number from 1 to {MOST_LAST}")
    return int(given)


def follows(request: Request) -> bool:
    """Whether the answer is to go on as things happen."""
    return flag_of(request, "follow")


def flag_of(request: Request, name: str) -> bool:
    """A query member that is true or false; false when it is not given."""
    given = request.query_params.get(name, "false")
    if given not in ("true", "false"):
        raise ValidationError(f"{name} must be true or false")
    return given == "true"


def answering(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Turn errors into their AWS shape."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (ApiError, StoreUnavailable) as error:
            wire = wire_error(unwritable(error) if isinstance(error, StoreUnavailable) else error)
            found = serialize_error(wire)
            return Response(found.body, status_code=found.status, headers=dict(found.headers))

    return answer


@dataclass(frozen=True, slots=True)
class Told:
    """One thing of a stream; whoever breaks off goes on behind ``place`` (``after=``)."""

    place: str
    kind: str
    body: Mapping[str, Any]


def streamed(
    request: Request, things: AsyncGenerator[T, None], told: Callable[[T], Told]
) -> Response:
    """One JSON object a line as they come, or an SSE stream for who accepts one."""
    if SSE in request.headers.get("accept", ""):
        headers = {"cache-control": "no-store"}
        return StreamingResponse(_sse(things, told), media_type=SSE, headers=headers)
    return StreamingResponse(
        _ndjson(things, lambda one: json.dumps(told(one).body)), media_type=NDJSON
    )


async def one_by_one(things: Iterable[T]) -> AsyncGenerator[T, None]:
    """What is there already, for `streamed`."""
    for one in things:
        yield one


async def _ndjson(
    things: AsyncGenerator[T, None], text: Callable[[T], str]
) -> AsyncGenerator[bytes, None]:
    # Closed here and not by the garbage collector: a follower holds a place in the log store.
    async with contextlib.aclosing(things):
        async for one in things:
            yield text(one).encode() + b"\n"


async def _sse(
    things: AsyncGenerator[T, None], told: Callable[[T], Told]
) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(things):
        async for one in things:
            found = told(one)
            text = json.dumps(found.body)
            yield f"id: {found.place}\nevent: {found.kind}\ndata: {text}\n\n".encode()
