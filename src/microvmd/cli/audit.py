"""``microvmd audit``: who called what, when, from where, and what it came to."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from microvmd.cli.client import Service
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, print_each
from microvmd.settings import settings

MINUTE_S = 60


def audit(
    name: Annotated[str | None, typer.Argument(help="Only this operation, as RunMicrovm.")] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Only of this user, ARN or access key.")
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", "-m", help="Of the last minutes; 0: all kept.", min=0)
    ] = 60,
    failed: Annotated[bool, typer.Option("--failed", help="Only what was refused.")] = False,
    error: Annotated[
        str | None, typer.Option(help="Only this error, as AccessDeniedException.")
    ] = None,
    writes: Annotated[bool, typer.Option("--writes", help="Leave Get and List out.")] = False,
    account: Annotated[
        str | None, typer.Option(help="As the operator: only of this account.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Who called what, oldest first; --json prints CloudTrail records, one a line.

    Example: microvmd audit RunMicrovm --user ann --minutes 1440
    """
    with reported():
        service = Service(settings.load())
        given = {"name": name, "user": user, "error": error, "account": account}
        query = {key: value for key, value in given.items() if value}
        flags = {"failed": failed, "writes": writes, "follow": follow}
        query |= {key: "true" for key, wanted in flags.items() if wanted}
        if minutes:
            query["since"] = repr(time.time() - minutes * MINUTE_S)
        print_each(service.stream("/audit", query), shown, as_json=as_json)


def shown(call: Mapping[str, Any]) -> str:
    """One line of a record, with the time of this machine's zone."""
    moment = datetime.fromisoformat(call["eventTime"]).astimezone()
    identity = call["userIdentity"]
    who = identity.get("arn") or identity.get("accessKeyId") or "nobody"
    about = ", ".join(one["ARN"].rpartition(":")[2] for one in call["resources"])
    what = f"{call['eventName']} {about}".rstrip()
    why = [call[name] for name in ("errorCode", "errorMessage") if name in call]
    came = ": ".join(why) or "ok"
    source = call["sourceIPAddress"]
    return f"{moment:%Y-%m-%d %H:%M:%S}  {what}  by {who} from {source}  {came}"
