"""All MicroVMs: a list that goes on by itself, what has ended, running new ones, many at once."""

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from microvmd.console.image_form import networks
from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.visit import Visit
from microvmd.model.connector import Ingress, managed_arn
from microvmd.model.errors import ApiError, ValidationError
from microvmd.model.microvm import State

STATES = [state.value for state in State if state is not State.TERMINATED]
FIRST_ROWS = 100
"""Rows that come with the page itself; its script fetches the others."""
ENDED_PAGE = 50
API_PAGES = 20
"""Pages of the API that are read for one page of what has ended."""
AT_ONCE = 8
IMAGES = 200
ACTIONS = {
    "suspend": ("SuspendMicrovm", "suspended"),
    "resume": ("ResumeMicrovm", "resumed"),
    "terminate": ("TerminateMicrovm", "terminated"),
}


async def listed(visit: Visit) -> Response:
    """The page; it narrows by ``q``, ``state`` and ``image`` what is shown at first."""
    found = await visit.service("GET", "/live")
    wanted = {name: visit.query(name) for name in ("q", "state", "image")}
    rows = [row for row in found["rows"] if _matches(row, wanted)]
    return visit.render(
        "microvms/list.html",
        rows=rows[:FIRST_ROWS],
        count=len(rows),
        wanted=wanted,
        states=STATES,
    )


async def changes(visit: Visit) -> Response:
    """What the page's script asks for: rows that changed since the version that it has."""
    after = visit.query("after")
    return JSONResponse(await visit.service("GET", "/live", {"after": after} if after else None))


async def ended(visit: Visit) -> Response:
    """TERMINATED ones, as long as the service keeps them."""
    token, found = visit.query("token") or None, []
    for _ in range(API_PAGES):
        page = await visit.ask("ListMicrovms", nextToken=token, maxResults=ENDED_PAGE)
        found += [item for item in page["items"] if item["state"] == "TERMINATED"]
        token = page.get("nextToken")
        if token is None or len(found) >= ENDED_PAGE:
            break
    return visit.render("microvms/ended.html", items=found, token=token)


async def run_form(visit: Visit) -> Response:
    """The dialog for a new MicroVM, with what there is to choose from."""
    images = await _runnable(visit)
    own = await _own_connectors(visit)
    return visit.render(
        "microvms/run.html",
        images=images,
        chosen=visit.query("image"),
        ingress=[(managed_arn(one, visit.console.region), one.value) for one in Ingress],
        egress=networks(visit.console.region),
        own=own,
    )


async def run(visit: Visit) -> Response:
    """RunMicrovm. What is refused is told within the dialog, which keeps what was typed."""
    try:
        made = await visit.ask("RunMicrovm", **await _asked_run(visit))
    except ApiError as error:
        return visit.render("microvms/refused.html", message=str(error))
    return visit.go(f"/microvm/{made['microvmId']}")


async def many(visit: Visit) -> Response:
    """The same for each MicroVM that was ticked; one that refuses keeps none from it."""
    form = await visit.form()
    action, chosen = (form.get("action") or [""])[-1], form.get("microvm", [])
    if action not in ACTIONS:
        raise ValidationError("Choose what to do with the MicroVMs.")
    operation, word = ACTIONS[action]
    turns, refused = asyncio.Semaphore(AT_ONCE), []

    async def each(name: str) -> None:
        async with turns:
            try:
                await visit.ask(operation, microvmIdentifier=name)
            except ApiError as error:
                refused.append(f"{name}: {error}")

    async with asyncio.TaskGroup() as tasks:
        for name in dict.fromkeys(chosen):
            tasks.create_task(each(name))
    _tell(visit, len(set(chosen)) - len(refused), word, refused)
    return visit.go("/microvms")


def _tell(visit: Visit, count: int, word: str, refused: Sequence[str]) -> None:
    if count:
        visit.notify(f"{count} MicroVM{'s are' if count > 1 else ' is'} being {word}.")
    for text in refused[:3]:
        visit.notify(text, "bad")
    if len(refused) > 3:
        visit.notify(f"{len(refused) - 3} more refused.", "bad")


def _matches(row: dict[str, Any], wanted: dict[str, str]) -> bool:
    text = wanted["q"].strip().lower()
    return (
        (not wanted["state"] or row["state"] == wanted["state"])
        and (not wanted["image"] or row["image"] == wanted["image"])
        and (text in row["microvm"] or text in row["image"].lower())
    )


async def _runnable(visit: Visit) -> list[dict[str, Any]]:
    """Images that have an ACTIVE version, by name."""
    found: list[dict[str, Any]] = []
    token = None
    while len(found) < IMAGES:
        page = await visit.ask("ListMicrovmImages", nextToken=token)
        found += [item for item in page["items"] if item.get("latestActiveImageVersion")]
        token = page.get("nextToken")
        if token is None:
            break
    return found


async def _own_connectors(visit: Visit) -> list[dict[str, Any]]:
    """Of the account; none where the caller may not see them."""
    try:
        page = await visit.ask("ListNetworkConnectors")
    except ApiError:
        return []
    return [item for item in page["NetworkConnectors"] if item["State"] == "ACTIVE"]


async def _asked_run(visit: Visit) -> dict[str, Any]:
    """The members of RunMicrovm, as the form has them. Raises ValidationError."""
    form = await visit.form()
    asked: dict[str, Any] = {
        "imageIdentifier": await visit.field("image"),
        "imageVersion": await visit.field("version") or None,
        "runHookPayload": await visit.field("payload") or None,
        "executionRoleArn": await visit.field("role") or None,
        "maximumDurationInSeconds": _number(await visit.field("duration"), "Maximum duration"),
        "ingressNetworkConnectors": form.get("ingress") or None,
        "egressNetworkConnectors": form.get("egress") or None,
    }
    idle = _number(await visit.field("idle"), "Idle after")
    if idle is not None:
        suspended = _number(await visit.field("suspended"), "Kept suspended")
        asked["idlePolicy"] = {
            "maxIdleDurationSeconds": idle,
            "suspendedDurationSeconds": 0 if suspended is None else suspended,
            "autoResumeEnabled": await visit.field("resume") == "yes",
        }
    return asked


def _number(text: str, name: str) -> int | None:
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise ValidationError(f"{name} must be a whole number of seconds.") from None


PAGE = Page(
    (
        PageRoute("/microvms", listed),
        PageRoute("/microvms/changes", changes, live=True),
        PageRoute("/microvms/ended", ended),
        PageRoute("/microvms/run", run_form),
        PageRoute("/microvms/run", run, method="POST"),
        PageRoute("/microvms/many", many, method="POST"),
    ),
    section=Section.MICROVMS,
)
