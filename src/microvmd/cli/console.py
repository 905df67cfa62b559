"""``microvmd console``: the way into the web console, and who is in it."""

from typing import Annotated

import typer

from microvmd.cli.client import Service
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, age, print_json, print_raw, print_table
from microvmd.settings import settings

app = typer.Typer(
    invoke_without_command=True,
    help="Print a link that logs you into the web console once; list and end its sessions.",
)


@app.callback()
def link(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Print a link that logs its reader in once, with the rights of the profile's key.

    It is good for five minutes. Whoever has it first is in: do not pass it on.
    """
    if context.invoked_subcommand is not None:
        return
    with reported():
        service = Service(settings.load())
        made = service.ask("POST", "/console/links", {})
        url = f"{service.endpoint_url}/console/login/{made['token']}"
        if as_json:
            print_json({"url": url, "seconds": made["seconds"]})
        else:
            print_raw(url)


@app.command()
def sessions(as_json: JsonFlag = False) -> None:
    """List who is logged in.

    Example: microvmd console sessions
    """
    with reported():
        found = Service(settings.load()).ask("GET", "/console/sessions")["sessions"]
        if as_json:
            print_json(found)
            return
        print_table(
            ["SESSION", "WHO", "FROM", "USED", "BEGAN"],
            [
                [
                    each["number"],
                    each["principal"],
                    each["source"] or "-",
                    age(each["used_at"]),
                    age(each["created_at"]),
                ]
                for each in found
            ],
        )


@app.command()
def end(
    session: Annotated[str, typer.Argument(help="Number of the session, or all.")],
    as_json: JsonFlag = False,
) -> None:
    """End a session, or all of them: its browser is asked to log in again.

    Example: microvmd console end all
    """
    with reported():
        ended = Service(settings.load()).ask("DELETE", f"/console/sessions/{session}")["ended"]
        if as_json:
            print_json({"ended": ended})
        else:
            print_raw(f"{ended} ended")
