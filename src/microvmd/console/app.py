"""``/console``: finds who asks, refuses what no page of ours asked for, and shows the page.

Every route of every page passes `Shown`; there is no other way in.
"""

from collections.abc import Sequence
from urllib.parse import quote

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from microvmd.api.errors import wire_error
from microvmd.api.invoke import hidden
from microvmd.console.assets import PREFIX as ASSETS
from microvmd.console.assets import Assets, Files
from microvmd.console.defence import (
    CSRF_FIELD,
    CSRF_HEADER,
    SAFE_METHODS,
    Defended,
    own_origin,
    same_token,
)
from microvmd.console.inner import Refused
from microvmd.console.page import Page, PageRoute, Section, SocketRoute
from microvmd.console.reports import report_route
from microvmd.console.visit import COOKIE, Console, Known, SocketVisit, Visit, new_context
from microvmd.model.errors import AccessDenied, ApiError

MOUNT = "/console"
LOGIN = f"{MOUNT}/login"
_log = structlog.get_logger("microvmd.console")


def navigation_of(pages: Sequence[Page]) -> tuple[tuple[Section, str], ...]:
    """The sections that pages claim, in their order, with the path of each."""
    claimed = {p.section: f"{MOUNT}{p.routes[0].path}" for p in pages if p.section and p.listed}
    return tuple((section, claimed[section]) for section in Section if section in claimed)


def console_routes(console: Console, pages: Sequence[Page], assets: Assets) -> list[BaseRoute]:
    """To mount beside the AWS operations."""
    first = console.navigation[0][1] if console.navigation else f"{MOUNT}/sessions"

    async def start(_: Request) -> Response:
        return RedirectResponse(first, status_code=303)

    routes: list[BaseRoute] = [
        Mount(f"{ASSETS.removeprefix(MOUNT)}/{kind}", Files(directory))
        for kind, directory in assets.directories.items()
    ]
    routes += [report_route(), Route("/", start)]
    for page in pages:
        for route in page.routes:
            shown = Shown(console, page.section, route)
            routes.append(Route(route.path, shown.answer, methods=[route.method]))
        for joined in page.sockets:
            routes.append(WebSocketRoute(joined.path, Joined(console, joined).answer))
    below = Starlette(routes=routes)
    below.router.redirect_slashes = False
    # A mount takes what is below it; the word alone is what people type.
    return [
        Route(MOUNT, Defended(RedirectResponse(first, status_code=303))),
        Mount(MOUNT, Defended(below)),
    ]


async def known_of(console: Console, connection: HTTPConnection, *, use: bool) -> Known | None:
    """Who is logged in, also on a WebSocket. A session ends with its access key."""
    session = console.sessions.find(connection.cookies.get(COOKIE), use=use)
    if session is None:
        return None
    identity, now = await console.credentials.find(session.access_key), console.now()
    if identity is None or identity.expired(now):
        console.sessions.end(session)
        return None
    caller = await console.credentials.caller(identity, now)
    source = None if connection.client is None else connection.client.host
    return Known(session, identity, new_context(identity, caller, console.region, now, source))


class Shown:
    """One route: who asks and whether they may, then its handler, then what it failed with."""

    def __init__(self, console: Console, section: Section | None, route: PageRoute) -> None:
        self._console = console
        self._section = section
        self._route = route

    async def answer(self, request: Request) -> Response:
        """What the browser gets; every failure is a page that can be read."""
        known = await known_of(self._console, request, use=not self._route.live)
        if known is None and not self._route.open:
            return _to_login(request)
        visit = Visit(self._console, request, self._section, known, live=self._route.live)
        try:
            if request.method not in SAFE_METHODS:
                await self._insist_on_own_page(visit)
            return await self._route.show(visit)
        except Refused as error:
            return _refusal(visit, error.status, error.name, error.message)
        except ApiError as error:
            wire = wire_error(error)
            return _refusal(visit, wire.status, wire.code, str(error))
        except ClientDisconnect:
            raise
        except Exception:  # the request border: the log holds the cause, the reader gets an id
            number = "-" if known is None else known.context.request_id
            _log.exception("internal error", path=self._route.path, request_id=number)
            return _refusal(visit, 500, "InternalServerException", hidden(number).message)

    async def _insist_on_own_page(self, visit: Visit) -> None:
        """Raises AccessDenied unless a page of this session sent this."""
        headers = visit.request.headers
        if not own_origin(headers):
            raise AccessDenied("This was not sent by a page of this console: nothing was done.")
        if self._route.open:
            return
        token = headers.get(CSRF_HEADER)
        if token is None and not self._route.raw:
            token = await visit.field(CSRF_FIELD)
        if not same_token(visit.known.session.csrf, token):
            raise AccessDenied(
                "The page is older than your login: nothing was done. Load it again and repeat."
            )


class Joined:
    """One path for WebSockets: only pages of this console open them, for who is logged in."""

    def __init__(self, console: Console, route: SocketRoute) -> None:
        self._console = console
        self._route = route

    async def answer(self, socket: WebSocket) -> None:
        """Refused with 403 before it opens, or the handler's."""

        async def again(used: bool) -> Known | None:
            return await known_of(self._console, socket, use=used)

        known = await again(True) if own_origin(socket.headers) else None
        if known is None:
            await socket.close()
            return
        try:
            await self._route.converse(SocketVisit(self._console, socket, known, again))
        except Exception:  # the border of a connection: the log holds the cause
            _log.exception("internal error", path=self._route.path)
            raise


def _to_login(request: Request) -> Response:
    """htmx goes there as a whole; a form that was sent is not sent again."""
    wanted = request.url.path if request.method in SAFE_METHODS else ""
    if request.headers.get("hx-request") == "true":
        return Response(status_code=401, headers={"hx-redirect": LOGIN})
    query = f"?next={quote(wanted.removeprefix(MOUNT))}" if wanted else ""
    return RedirectResponse(f"{LOGIN}{query}", status_code=303)


def _refusal(visit: Visit, status: int, code: str, message: str) -> Response:
    template = "parts/refusal.html" if visit.is_part else "refusal.html"
    return visit.render(template, status, number=status, code=code, message=message)
