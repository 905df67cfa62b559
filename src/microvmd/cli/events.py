"""``microvmd events``: what happened to MicroVMs, images and connectors, and who did it."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from microvmd.cli.client import Service
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, print_each
from microvmd.model.event import Kind
from microvmd.settings import settings

MINUTE_S = 60


def events(
    resource: Annotated[
        str | None, typer.Argument(help="Only of this MicroVM, image or connector.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come.")] = False,
    minutes: Annotated[
        float | None, typer.Option("--minutes", "-m", help="Only those of the last minutes.", min=0)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """What happened, oldest first: each change of a state, why, and who made it.

    Example: microvmd events microvm-12ab --follow
    """
    with reported():
        service = Service(settings.load())
        query = {"follow": "true" if follow else "false"}
        if resource is not None:
            begins = resource.startswith("microvm-")
            query["resource"] = service.find_microvm(resource) if begins else resource
        if minutes is not None:
            query["since"] = repr(time.time() - minutes * MINUTE_S)
        print_each(service.stream("/events", query), shown, as_json=as_json)


def shown(event: Mapping[str, Any]) -> str:
    """One line of an envelope, with the time of this machine's zone."""
    detail = event["detail"]
    moment = datetime.fromisoformat(event["time"]).astimezone()
    thing = detail.get("microvmId") or detail.get("name") or event["resources"][0]
    if "microvmId" not in detail and "imageVersion" in detail:
        thing = f"{thing} {detail['imageVersion']}"
    if event["detail-type"] == Kind.BUILD:
        thing = f"{thing} build {detail['buildId']}"
    before, change = detail.get("previousState"), detail["state"]
    if before not in (None, change):
        change = f"{before} -> {change}"
    actor = detail["actor"]
    who = actor.get("principal") or actor["type"]
    reason = f" ({detail['reason']})" if detail.get("reason") else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}  {thing}  {change}{reason}  by {who}"
