"""One version: what it was made with, and its build: stages, log, sizes, and why it failed."""

from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from microvmd.console.build_stages import advice, stages
from microvmd.console.inner import Refused
from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.pages.images import arn_of, build_of
from microvmd.console.visit import Visit
from microvmd.model.hooks import DEFAULT_PORT
from microvmd.model.size import DEFAULT_MEMORY_MIB

LINES_SHOWN = 5000
"""A page holds no more; the commands have all."""
FINISHED = frozenset({"SUCCESSFUL", "FAILED"})


async def one(visit: Visit) -> Response:
    """With the log so far; what follows comes by itself."""
    name, number = visit.path("name"), visit.path("version")
    arn = arn_of(visit, name)
    version = await visit.ask("GetMicrovmImageVersion", imageIdentifier=arn, imageVersion=number)
    shown = await _log(visit, 0)
    return visit.render(
        "images/version.html",
        **{**shown, "version": version},
        default_mib=DEFAULT_MEMORY_MIB,
        default_port=DEFAULT_PORT,
    )


async def log(visit: Visit) -> Response:
    """The lines after those that the page has, and how far the build is."""
    return visit.render("images/log.html", **await _log(visit, _count(visit.query("after"))))


async def _log(visit: Visit, after: int) -> dict[str, Any]:
    """The state is asked for before the lines: when it is final, the lines are complete."""
    name, number = visit.path("name"), visit.path("version")
    build = await build_of(visit, arn_of(visit, name), number)
    found: list[dict[str, Any]] = []
    problem = ""
    if build is not None:
        try:
            found = await _lines(visit, name, number, build["buildId"])
        except Refused as error:
            problem = error.message
    finished = build is None or build["buildState"] in FINISHED
    full = len(found) >= LINES_SHOWN
    return {
        "name": name,
        "version": {"imageVersion": number},
        "lines": found[after:],
        "after": max(after, len(found)),
        "more": not (finished or problem or full),
        "problem": problem,
        "full": full,
        **_progress(build, [line["message"] for line in found]),
    }


async def _lines(visit: Visit, name: str, number: str, build_id: str) -> list[dict[str, Any]]:
    query = {"group": f"/aws/lambda-microvms/{name}", "stream": f"build/{number}/{build_id}"}
    async with aclosing(visit.lines("/logs", query)) as lines:
        found = []
        async for line in lines:
            found.append(line)
            if len(found) == LINES_SHOWN:
                break
        return found


def _progress(build: dict[str, Any] | None, lines: list[str]) -> dict[str, Any]:
    state = "PENDING" if build is None else build["buildState"]
    reason = (build or {}).get("stateReason") or ""
    return {
        "build": build,
        "stages": stages(lines, state),
        "reason": reason,
        "advice": advice(reason) if state == "FAILED" else "",
        "finished": state in FINISHED,
    }


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0


_VERSION = "/images/{name}/versions/{version}"
PAGE = Page(
    (PageRoute(_VERSION, one), PageRoute(f"{_VERSION}/log", log, live=True)),
    Section.IMAGES,
    listed=False,
)
