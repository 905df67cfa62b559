"""The machine: whether all of it works, how it emulates, how full it is."""

from typing import Any

from starlette.responses import Response

from microvmd.console.inner import Refused
from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.visit import Visit


async def nodes(visit: Visit) -> Response:
    return visit.render("nodes/nodes.html", **await _facts(visit))


async def facts(visit: Visit) -> Response:
    """What the page asks for every few seconds."""
    return visit.render("nodes/facts.html", **await _facts(visit))


async def _facts(visit: Visit) -> dict[str, Any]:
    limits = await visit.service("GET", "/limits")
    return {"health": await _health(visit), "machine": limits["machine"]}


async def _health(visit: Visit) -> dict[str, Any]:
    """Of a service that is degraded the route answers 503, with what is the matter."""
    try:
        found: dict[str, Any] = await visit.service("GET", "/health")
    except Refused as error:
        told = {"status": "degraded", "version": "", "checks": {"service": error.message}}
        return {**told, **error.document}
    return found


PAGE = Page(
    (PageRoute("/nodes", nodes), PageRoute("/nodes/facts", facts, live=True)), Section.NODES
)
