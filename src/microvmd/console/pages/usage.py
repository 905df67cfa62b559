"""What the account used and what it costs, what it may have, and how full the machine is."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.visit import Visit

DAY_S = 86_400.0
SPANS = {"1": "1 day", "7": "7 days", "30": "30 days", "365": "365 days"}
DEFAULT_SPAN = "30"
BY = ("image", "microvm")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def used(visit: Visit) -> Response:
    """The page; ``days`` and ``by`` (``image``, ``microvm`` or ``tag:<key>``) choose."""
    found, wanted = await _usage(visit)
    limits = await visit.service("GET", "/limits")
    return visit.render(
        "usage/usage.html",
        lines=found["lines"],
        total=sum(line["cost"] for line in found["lines"]),
        currency=found["currency"],
        wanted=wanted,
        spans=SPANS,
        kinds=BY,
        quotas=limits["quotas"],
        rates=limits["rates"],
    )


async def table(visit: Visit) -> Response:
    """The same usage as a file for a spreadsheet, with all digits."""
    found, wanted = await _usage(visit)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, line in enumerate(found["lines"]):
        if number == 0:
            writer.writerow(line)
        writer.writerow(_safe(value) for value in line.values())
    name = f"usage-{wanted['days']}-days.csv"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


async def _usage(visit: Visit) -> tuple[Any, Mapping[str, str]]:
    days = visit.query("days")
    days = days if days in SPANS else DEFAULT_SPAN
    by = visit.query("by").strip() or BY[0]
    since = visit.console.clock() - float(days) * DAY_S
    found = await visit.service("GET", "/usage", {"since": repr(max(0.0, since)), "by": by})
    return found, {"days": days, "by": by}


def _safe(value: object) -> object:
    """A tag that a spreadsheet would take for a formula stays text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


PAGE = Page((PageRoute("/usage", used), PageRoute("/usage.csv", table)), Section.USAGE)
