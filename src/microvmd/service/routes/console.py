"""``/microvmd/v1/console``: links to log in with, and sessions that the operator ends.

``POST .../links``
    ``{"token": ..., "seconds": ...}``: ``/console/login/<token>`` logs its reader in once, as the
    key that signed this. Whoever has a key has a right to a link: it can do no more.
``GET .../sessions``, ``DELETE .../sessions/<number>`` (or ``all``)
    for the operator alone.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from microvmd.api.requests import RequestContext
from microvmd.console.logins import LINK_SECONDS, Links
from microvmd.console.sessions import Session, Sessions
from microvmd.model.errors import AccessDenied, NotFound
from microvmd.service.routes import PREFIX
from microvmd.service.routes.extensions import Authenticate, answering

ALL = "all"
_SHOWN = ("number", "access_key", "account", "principal", "source", "agent")
_TIMES = ("created_at", "used_at")


def login_routes(
    sessions: Sessions, links: Links, authenticate: Authenticate, operator: str
) -> list[Route]:
    """The routes to mount beside the console's. ``operator`` is the default account."""

    async def make_link(request: Request) -> Response:
        context, _ = await authenticate(request)
        token = links.make(context.access_key)
        return JSONResponse({"token": token, "seconds": LINK_SECONDS})

    async def list_sessions(request: Request) -> Response:
        context, _ = await authenticate(request)
        _insist_on_operator(context, operator)
        return JSONResponse({"sessions": [_shown(session) for session in sessions.all()]})

    async def end_session(request: Request) -> Response:
        context, _ = await authenticate(request)
        _insist_on_operator(context, operator)
        wanted = request.path_params["number"]
        ended = [s for s in sessions.all() if wanted in (ALL, s.number)]
        if not ended and wanted != ALL:
            raise NotFound(f"There is no session {wanted}.")
        for session in ended:
            sessions.end(session)
        return JSONResponse({"ended": len(ended)})

    base = f"{PREFIX}/console"
    return [
        Route(f"{base}/links", answering(make_link), methods=["POST"]),
        Route(f"{base}/sessions", answering(list_sessions)),
        Route(f"{base}/sessions/{{number}}", answering(end_session), methods=["DELETE"]),
    ]


def _shown(session: Session) -> dict[str, Any]:
    return {name: getattr(session, name) for name in (*_SHOWN, *_TIMES)}


def _insist_on_operator(context: RequestContext, operator: str) -> None:
    if not context.is_root_of(operator):
        raise AccessDenied("Only the operator sees and ends the sessions of the console.")
