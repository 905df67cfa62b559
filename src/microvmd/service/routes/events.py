"""``GET /microvmd/v1/events``: what happened in the caller's account, in EventBridge's envelope.

``?resource=`` (a MicroVM's id, an image's or a connector's name), ``kind=`` (a ``detail-type``),
``since=`` (seconds since the epoch) and ``after=`` (a sequence number) choose; ``last=`` (a number
of events) are the newest ones alone. One JSON object a
line; with ``Accept: text/event-stream`` an SSE stream, whose ids are sequence numbers, so that a
browser goes on where it was (``Last-Event-ID``). With ``follow=true`` the answer ends with the
client.
"""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from microvmd.api.requests import RequestContext
from microvmd.control.event_rows import EventQuery
from microvmd.control.events import Events
from microvmd.model.errors import ValidationError
from microvmd.model.event import Event, Kind
from microvmd.service.routes import PREFIX
from microvmd.service.routes.extensions import (
    Authenticate,
    Authorize,
    Told,
    answering,
    follows,
    last_of,
    moment_of,
    one_by_one,
    streamed,
)

RIGHT = "microvmd:ListEvents"


def event_routes(events: Events, authenticate: Authenticate, authorize: Authorize) -> list[Route]:
    """The route to mount beside the AWS operations; it takes the right `microvmd:ListEvents`."""

    async def answer(request: Request) -> Response:
        context, _ = await authenticate(request)
        authorize.thing(context, RIGHT, "*")
        asked = _Asked.of(request, context)
        if asked.last is not None:
            found = one_by_one(await events.last(asked.query, asked.last))
        else:
            found = events.read(asked.query, after=asked.after, follow=asked.follow)
        return streamed(request, found, _told)

    return [Route(f"{PREFIX}/events", answering(answer))]


@dataclass(frozen=True, slots=True)
class _Asked:
    query: EventQuery
    after: int
    follow: bool
    last: int | None

    @classmethod
    def of(cls, request: Request, context: RequestContext) -> "_Asked":
        given = request.query_params
        follow = follows(request)
        last = request.headers.get("last-event-id") or given.get("after") or "0"
        if not (last.isascii() and last.isdigit() and len(last) <= 18):
            raise ValidationError("after must be the sequence number of an event")
        query = EventQuery(
            context.account,
            _kind(given.get("kind")),
            given.get("resource") or None,
            moment_of(request, "since"),
        )
        return cls(query, int(last), follow, last_of(request))


def _told(event: Event) -> Told:
    return Told(str(event.sequence), event.change.kind, event.envelope())


def _kind(given: str | None) -> Kind | None:
    if not given:
        return None
    try:
        return Kind(given)
    except ValueError:
        raise ValidationError(f"kind must be one of: {', '.join(Kind)}") from None
