"""The way in and out: by an access key, or by a link that ``microvmd console`` has printed."""

import math
import re

from starlette.responses import Response

from microvmd.api.credentials import Identity
from microvmd.console.logins import identity_of
from microvmd.console.page import Page, PageRoute
from microvmd.console.sign_in import Attempt
from microvmd.console.visit import COOKIE, THEME_COOKIE, THEMES, Visit, new_context
from microvmd.model.errors import Throttled

_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._-]*")
_YEAR_S = 365 * 86400


async def form(visit: Visit) -> Response:
    return visit.render("login.html", problem="", access_key="", next=_next(visit.query("next")))


async def by_key(visit: Visit) -> Response:
    """What was typed stays, but for the secret."""
    attempt = _attempt(visit, "AccessKey")
    _insist_on_pause(visit, attempt)
    access_key = (await visit.field("access_key")).strip()
    secret = (await visit.field("secret_key")).strip()
    wanted = _next(await visit.field("next"))
    identity = await identity_of(visit.console.credentials, access_key, secret)
    if identity is None:
        _fail(visit, attempt, await visit.console.credentials.find(access_key))
        problem = "There is no such access key with this secret."
        return visit.render("login.html", 403, problem=problem, access_key=access_key, next=wanted)
    return await _enter(visit, attempt, identity, wanted)


async def link(visit: Visit) -> Response:
    """Only shows whose link it is: a browser that looks ahead must not use it up."""
    identity = await _behind(visit, visit.path("token"), use_up=False)
    name = None
    if identity is not None:
        name = (await visit.console.credentials.caller(identity, visit.console.now())).arn
    return visit.render("link.html", 200 if name else 403, name=name)


async def by_link(visit: Visit) -> Response:
    attempt = _attempt(visit, "Link")
    _insist_on_pause(visit, attempt)
    identity = await _behind(visit, visit.path("token"), use_up=True)
    if identity is None:
        _fail(visit, attempt, None)
        return visit.render("link.html", 403, name=None)
    return await _enter(visit, attempt, identity, "/")


async def leave(visit: Visit) -> Response:
    visit.console.sessions.end(visit.known.session)
    answer = visit.go("/login")
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


async def theme(visit: Visit) -> Response:
    """The next of automatic, light and dark; kept by the browser."""
    current = visit.request.cookies.get(THEME_COOKIE, THEMES[0])
    place = THEMES.index(current) if current in THEMES else 0
    answer = visit.go(_next(await visit.field("next")))
    answer.set_cookie(
        THEME_COOKIE,
        THEMES[(place + 1) % len(THEMES)],
        max_age=_YEAR_S,
        path="/console",
        secure=True,
        httponly=True,
        samesite="lax",
    )
    return answer


async def _behind(visit: Visit, token: str, *, use_up: bool) -> Identity | None:
    links = visit.console.links
    access_key = links.take(token) if use_up else links.look(token)
    found = None if access_key is None else await visit.console.credentials.find(access_key)
    return None if found is None or found.expired(visit.console.now()) else found


def _attempt(visit: Visit, way: str) -> Attempt:
    client = visit.request.client
    source = "-" if client is None else client.host
    return Attempt(visit.console.region, source, visit.request.headers.get("user-agent", ""), way)


async def _enter(visit: Visit, attempt: Attempt, identity: Identity, wanted: str) -> Response:
    console, now = visit.console, visit.console.now()
    token, _ = await console.login(identity, attempt.source, attempt.agent)
    caller = await console.credentials.caller(identity, now)
    context = new_context(identity, caller, console.region, now, attempt.source)
    console.audit(attempt.succeeded(context))
    answer = visit.go(wanted)
    # Gone with the browser; the service ends it earlier by its own clock.
    answer.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _fail(visit: Visit, attempt: Attempt, claimed: Identity | None) -> None:
    visit.console.attempts.fail(attempt.source)
    visit.console.audit(attempt.refused(claimed))


def _insist_on_pause(visit: Visit, attempt: Attempt) -> None:
    wait = visit.console.attempts.wait(attempt.source)
    if wait > 0:
        visit.console.audit(attempt.refused(None, "Too many logins from this address have failed"))
        minutes = math.ceil(wait / 60)
        raise Throttled(
            f"Too many logins from your address have failed. Try again in {minutes} min, or ask "
            "for a link on the machine itself: microvmd console",
            retry_after=math.ceil(wait),
        )


def _next(path: str) -> str:
    """A path of ours below ``/console``, and never another site's address."""
    return path if _PLAIN_PATH.fullmatch(path) and "//" not in path else "/"


PAGE = Page(
    (
        PageRoute("/login", form, open=True),
        PageRoute("/login", by_key, method="POST", open=True),
        PageRoute("/login/{token}", link, open=True),
        PageRoute("/login/{token}", by_link, method="POST", open=True),
        PageRoute("/logout", leave, method="POST"),
        PageRoute("/theme", theme, method="POST", open=True),
    )
)
