"""Who is logged in: each sees the own sessions, the operator all, and may end them."""

from starlette.responses import Response

from microvmd.console.page import Page, PageRoute
from microvmd.console.sessions import Session
from microvmd.console.visit import Visit
from microvmd.model.errors import NotFound


async def listed(visit: Visit) -> Response:
    return visit.render("sessions.html", sessions=_visible(visit), own=visit.known.session)


async def end(visit: Visit) -> Response:
    number = visit.path("number")
    found = next((s for s in _visible(visit) if s.number == number), None)
    if found is None:
        raise NotFound("There is no such session; it may have ended already.")
    visit.console.sessions.end(found)
    if found is visit.known.session:
        return visit.go("/login")
    visit.notify("The session has ended.")
    return visit.go("/sessions")


def _visible(visit: Visit) -> list[Session]:
    own = visit.known.session.principal
    every = visit.console.sessions.all()
    return every if visit.is_operator else [s for s in every if s.principal == own]


PAGE = Page(
    (
        PageRoute("/sessions", listed),
        PageRoute("/sessions/{number}/end", end, method="POST"),
    )
)
