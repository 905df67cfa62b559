"""What happened, and who called what: the newest of each, as they come."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.visit import Visit
from microvmd.model.event import Kind

SHOWN = "100"
_SUFFIX = " State Change"
KINDS = [kind.removesuffix(_SUFFIX) for kind in Kind]


async def happened(visit: Visit) -> Response:
    """Changes of state; ``kind`` and ``resource`` narrow them."""
    return visit.render("events/events.html", **await _events(visit), kinds=KINDS)


async def happened_rows(visit: Visit) -> Response:
    """What the page asks for every few seconds; nothing when it has the newest."""
    found = await _events(visit)
    if found["newest"] == visit.query("newest"):
        return Response(status_code=204)
    return visit.render("events/event_rows.html", **found)


async def called(visit: Visit) -> Response:
    """Calls of the API; ``name``, ``user``, ``failed`` and ``writes`` narrow them."""
    return visit.render("events/calls.html", **await _calls(visit), operator=visit.is_operator)


async def called_rows(visit: Visit) -> Response:
    """As `happened_rows`."""
    found = await _calls(visit)
    if found["newest"] == visit.query("newest"):
        return Response(status_code=204)
    return visit.render("events/call_rows.html", **found)


async def _events(visit: Visit) -> dict[str, Any]:
    wanted = {name: visit.query(name).strip() for name in ("kind", "resource")}
    query = {"last": SHOWN, "resource": wanted["resource"]}
    if wanted["kind"] in KINDS:
        query["kind"] = f"{wanted['kind']}{_SUFFIX}"
    rows = await _newest(visit, "/events", query)
    return {"rows": rows, "wanted": wanted, "newest": rows[0]["id"] if rows else ""}


async def _calls(visit: Visit) -> dict[str, Any]:
    wanted = {name: visit.query(name).strip() for name in ("name", "user", "only")}
    query = {"last": SHOWN, "name": wanted["name"], "user": wanted["user"]}
    if wanted["only"] in ("failed", "writes"):
        query[wanted["only"]] = "true"
    rows = await _newest(visit, "/audit", query)
    return {"rows": rows, "wanted": wanted, "newest": rows[0]["eventID"] if rows else ""}


async def _newest(visit: Visit, path: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
    given = {name: value for name, value in query.items() if value}
    async with aclosing(visit.lines(path, given)) as lines:
        return [line async for line in lines][::-1]


PAGE = Page(
    (
        PageRoute("/events", happened),
        PageRoute("/events/rows", happened_rows, live=True),
        PageRoute("/events/calls", called),
        PageRoute("/events/calls/rows", called_rows, live=True),
    ),
    Section.EVENTS,
)
