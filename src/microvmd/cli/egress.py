"""``microvmd egress``: what a MicroVM may reach; ``microvmd network reload``: the mapping anew."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from microvmd.cli.client import Service
from microvmd.cli.completion import Identifier
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, console, print_json, print_raw, print_table
from microvmd.model.connector import EGRESS_MEMBER, Egress, managed_arn
from microvmd.settings import settings

network = typer.Typer(no_args_is_help=True, help="Networks of MicroVMs, for the operator.")


def egress(
    microvm: Identifier,
    connectors: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Give it this connector instead: an ARN, INTERNET_EGRESS or NO_EGRESS; "
            "may be repeated.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a MicroVM may reach, or change it while it lives.

    Example: microvmd egress 12ab --set NO_EGRESS
    """
    with reported():
        service = Service(settings.load())
        path = f"/microvms/{service.find_microvm(microvm)}/egress"
        if connectors:
            body = {EGRESS_MEMBER: [arn_of(service.region, name) for name in connectors]}
            found = service.ask("PUT", path, body)
        else:
            found = service.ask("GET", path)
        if as_json:
            print_json(found)
            return
        for arn in found[EGRESS_MEMBER]:
            console.print(f"[dim]{arn}[/]", soft_wrap=True)
        print_table(("NETWORK", "PROTOCOL", "PORTS", "NAMES", "CONNECTOR"), rows(found))


@network.command()
def reload(as_json: JsonFlag = False) -> None:
    """Read network.subnets and network.security_groups again, for MicroVMs that live too.

    Example: microvmd network reload
    """
    with reported():
        found = Service(settings.load()).ask("POST", "/network/reload", {})
        if as_json:
            print_json(found)
        else:
            print_raw(f"{found['microvms']} MicroVMs keep to it")


def arn_of(region: str, name: str) -> str:
    """The ARN of a managed connector's name; anything else as it is."""
    names = {connector.value: connector for connector in Egress}
    return managed_arn(names[name], region) if name in names else name


def rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """One for each thing that is open."""
    if found["internet"]:
        yield "public addresses", "tcp", "all", "any", Egress.INTERNET.value
    for reach in found["reaches"]:
        ports, names = (" ".join(reach[part]) for part in ("ports", "names"))
        network_, protocol, grant = reach["network"], reach["protocol"], reach["connector"]
        yield network_, protocol, ports or "all", names or "any", grant
