"""``GET /microvmd/v1/audit``: who called what, in CloudTrail's record shape.

``?name=`` (an operation), ``user=`` (a name, an ARN or an access key), ``since=`` (seconds since
the epoch), ``failed=true``, ``error=`` (a code), ``writes=true`` (only what changes something) and
``after=`` (a place) choose; ``last=`` (a number of calls) are the newest ones alone. One JSON
object a line; with ``Accept: text/event-stream`` an SSE stream, whose ids are places. With
``follow=true`` the answer ends with the client. An account sees its own calls; the operator sees
all of them, or with ``account=`` one account's.
"""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from microvmd.api.requests import RequestContext
from microvmd.model.errors import ValidationError
from microvmd.service.audit_log import AuditLog, AuditQuery, Place
from microvmd.service.routes import PREFIX
from microvmd.service.routes.extensions import (
    Authenticate,
    Authorize,
    Told,
    answering,
    flag_of,
    follows,
    last_of,
    moment_of,
    one_by_one,
    streamed,
)

RIGHT = "cloudtrail:LookupEvents"


def audit_routes(
    audit: AuditLog, authenticate: Authenticate, authorize: Authorize, operator: str
) -> list[Route]:
    """The route to mount beside the AWS operations. ``operator`` is the default account."""

    async def answer(request: Request) -> Response:
        context, _ = await authenticate(request)
        authorize.thing(context, RIGHT, "*")
        asked = _Asked.of(request, context, operator)
        if (count := last_of(request)) is not None:
            found = one_by_one(await audit.last(asked.query, count))
        else:
            found = audit.read(asked.query, after=asked.after, follow=asked.follow)
        return streamed(request, found, _told)

    return [Route(f"{PREFIX}/audit", answering(answer))]


@dataclass(frozen=True, slots=True)
class _Asked:
    query: AuditQuery
    after: Place | None
    follow: bool

    @classmethod
    def of(cls, request: Request, context: RequestContext, operator: str) -> "_Asked":
        given = request.query_params
        query = AuditQuery(
            account=_account(given.get("account") or None, context, operator),
            name=given.get("name") or None,
            user=given.get("user") or None,
            since=moment_of(request, "since"),
            failed=flag_of(request, "failed"),
            error=given.get("error") or None,
            writes=flag_of(request, "writes"),
        )
        return cls(query, _after(request), follows(request))


def _told(line: tuple[Place, dict[str, Any]]) -> Told:
    place, call = line
    return Told(str(place), "call", call)


def _account(given: str | None, context: RequestContext, operator: str) -> str | None:
    return given if context.is_root_of(operator) else context.account


def _after(request: Request) -> Place | None:
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    if not text:
        return None
    place = Place.parse(text)
    if place is None:
        raise ValidationError("after must be a place: the id of an event of this stream")
    return place
