"""One MicroVM: what it is, does and costs, its log, its terminal, and a way to its endpoint."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from microvmd.console.inner import Refused
from microvmd.console.page import Page, PageRoute, Section, SocketRoute
from microvmd.console.pages.microvms import ACTIONS
from microvmd.console.terminal import serve_terminal
from microvmd.console.visit import Visit
from microvmd.model.connector import allows_http, allows_shell
from microvmd.model.errors import NotFound, ValidationError
from microvmd.model.metering import GB, HOUR_S, Prices, Usage

LOG_SECONDS = 60.0
"""A log that is followed asks again after this, so that it ends with its session."""
TOKEN_MINUTES = 30
_OPTIONAL = (
    *("executionRoleArn", "idlePolicy", "kmsKeyIdentifier", "stateReason", "terminatedAt"),
    *("ingressNetworkConnectors", "egressNetworkConnectors"),
)
"""Members of GetMicrovm's answer that need not be there."""


async def detail(visit: Visit) -> Response:
    """The whole page."""
    about = await _about(visit)
    return visit.render("microvms/detail.html", **about, states=await _states(visit))


async def summary(visit: Visit) -> Response:
    """What changes with the state."""
    return visit.render("microvms/summary.html", **await _about(visit))


async def samples(visit: Visit) -> Response:
    """For charts: samples later than ``after``, the row when it is not that of ``version``, and
    the states that it went through when ``states`` is asked for."""
    name = visit.path("microvm")
    found = await visit.service(
        "GET", f"/microvms/{name}/samples", {"after": visit.query("after", "0")}
    )
    version = visit.query("version")
    live = await visit.service("GET", "/live", {"after": version} if version else None)
    row = next((row for row in live["rows"] if row["microvm"] == name), None)
    lives = None if live["microvms"] is None else name in live["microvms"]
    states = await _states(visit) if visit.query("states") else None
    return JSONResponse(
        {**found, "version": live["version"], "row": row, "lives": lives, "states": states}
    )


async def act(visit: Visit) -> Response:
    """Suspend, resume or terminate."""
    name, wanted = visit.path("microvm"), visit.path("action")
    if wanted not in ACTIONS:
        raise NotFound("There is nothing like this to do with a MicroVM.")
    operation, word = ACTIONS[wanted]
    await visit.ask(operation, microvmIdentifier=name)
    visit.notify(f"The MicroVM is being {word}.")
    return visit.go(f"/microvm/{name}")


async def token(visit: Visit) -> Response:
    """A token and the line to use it; it is in this answer only."""
    name, port = visit.path("microvm"), (await visit.field("port")).strip()
    if port and not port.isdecimal():
        raise ValidationError("The port must be a number; leave it empty for 8080.")
    ports: list[dict[str, Any]] = [{"port": int(port)}] if port else [{"allPorts": {}}]
    made = await visit.ask(
        "CreateMicrovmAuthToken",
        microvmIdentifier=name,
        expirationInMinutes=TOKEN_MINUTES,
        allowedPorts=ports,
    )
    ((header, value),) = made["authToken"].items()
    found = await visit.ask("GetMicrovm", microvmIdentifier=name)
    return visit.render(
        "microvms/token.html",
        header=header,
        value=value,
        port=port,
        endpoint=found["endpoint"],
        minutes=TOKEN_MINUTES,
    )


async def log(visit: Visit) -> Response:
    """Lines as they come, for the page's script (server-sent events). The id of each is its time,
    so that a browser goes on where it was."""
    facts = await visit.service("GET", f"/microvms/{visit.path('microvm')}")
    follow = visit.query("follow", "true")
    query = {"group": facts["log_group"], "stream": facts["log_stream"], "follow": follow}
    last = visit.request.headers.get("last-event-id", "")
    visit.live = bool(last)
    if last:
        query["since"] = repr(math.nextafter(_seconds(last), math.inf))
    return StreamingResponse(_events(visit, query), media_type="text/event-stream")


async def _events(visit: Visit, query: dict[str, str]) -> AsyncIterator[bytes]:
    yield b"retry: 500\n\n"
    try:
        async with asyncio.timeout(LOG_SECONDS), aclosing(visit.lines("/logs", query)) as lines:
            async for line in lines:
                shown = json.dumps({"time": line["time"], "message": line["message"]})
                yield f"id: {line['time']!r}\ndata: {shown}\n\n".encode()
        yield b"event: end\ndata: -\n\n"
    except TimeoutError:
        return
    except Refused as error:
        yield f"event: refused\ndata: {json.dumps(str(error))}\n\n".encode()


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValidationError("The place in the log must be a time.") from None


async def _about(visit: Visit) -> dict[str, Any]:
    """Everything that the summary shows. Raises ApiError when there is no such MicroVM."""
    name = visit.path("microvm")
    found = await visit.ask("GetMicrovm", microvmIdentifier=name)
    try:
        facts = await visit.service("GET", f"/microvms/{name}")
    except Refused:
        facts = None
    ingress = found.get("ingressNetworkConnectors") or ()
    return {
        "microvm": {**dict.fromkeys(_OPTIONAL), **found},
        "facts": facts,
        "live": found["state"] not in ("TERMINATING", "TERMINATED"),
        "shell": allows_shell(ingress),
        "http": allows_http(ingress),
        "cost": await _cost(visit, found, facts),
    }


async def _cost(
    visit: Visit, found: dict[str, Any], facts: dict[str, Any] | None
) -> dict[str, Any] | None:
    """So far, and what each step would add; None for who may not read usage."""
    name = found["microvmId"]
    query = {"by": "microvm", "since": repr(float(found["startedAt"]))}
    try:
        usage = await visit.service("GET", "/usage", query)
    except Refused:
        return None
    line = next((line for line in usage["lines"] if line["key"] == name), None)
    steps = _steps(facts or {}, Prices(**usage["prices"]))
    return {"currency": usage["currency"], "so_far": line, **steps}


def _steps(facts: dict[str, Any], prices: Prices) -> dict[str, float]:
    """Cost of an hour in each state, of reading what is stored, and of writing a GiB."""
    stored = facts.get("stored_bytes", 0)
    return {
        "running_hour": prices.cost(Usage.running(HOUR_S, facts.get("memory_mib", 0))),
        "suspended_hour": prices.cost(Usage.suspended(HOUR_S, stored)),
        "resume": prices.cost(Usage(read_bytes=stored)),
        "written_gb": prices.cost(Usage(written_bytes=GB)),
    }


async def _states(visit: Visit) -> list[list[Any]]:
    """``[time, state]`` of each change, oldest first; empty for who may not read events."""
    query = {"resource": visit.path("microvm")}
    try:
        async with aclosing(visit.lines("/events", query)) as lines:
            return [[line["time"], line["detail"]["state"]] async for line in lines]
    except Refused:
        return []


PAGE = Page(
    (
        PageRoute("/microvm/{microvm}", detail),
        PageRoute("/microvm/{microvm}/summary", summary, live=True),
        PageRoute("/microvm/{microvm}/samples", samples, live=True),
        PageRoute("/microvm/{microvm}/log", log, live=True),
        PageRoute("/microvm/{microvm}/token", token, method="POST"),
        PageRoute("/microvm/{microvm}/do/{action}", act, method="POST"),
    ),
    section=Section.MICROVMS,
    listed=False,
    sockets=(SocketRoute("/microvm/{microvm}/terminal", serve_terminal),),
)
