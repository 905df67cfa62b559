"""``microvmd doctor``: every check, why it says so, and how to mend it.

With ``--security`` the claims of SECURITY.md instead, each looked at on this machine.
"""

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.markup import escape

from microvmd.cli import checks, security_checks
from microvmd.cli.checks import Check, Finding
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, coloured, console, print_json
from microvmd.settings import settings

CHECKS: Mapping[str, Check] = {
    "privileges": checks.privileges,
    "accelerator": checks.accelerator,
    "QEMU": checks.qemu,
    "VMM": checks.vmm,
    "tools": checks.tools,
    "assets": checks.assets,
    "control groups": checks.cgroups,
    "packet filter": checks.packet_filter,
    "forwarding": checks.forwarding,
    "subnet": checks.subnet,
    "user ids": checks.user_ids,
    "service user": checks.service_user,
    "node socket": checks.node_socket,
    "ports": checks.ports,
    "names": checks.names,
    "disk": checks.disk,
    "memory": checks.memory,
    "clock": checks.clock,
}


def examine(found: settings.Settings, every: Mapping[str, Check]) -> dict[str, Finding]:
    """Every check in order. One that breaks is a finding, not the end of the report."""
    findings = {}
    for name, check in every.items():
        try:
            findings[name] = check(found)
        except OSError as error:
            findings[name] = Finding("failed", f"cannot be checked: {error}")
    return findings


def doctor(
    security: Annotated[
        bool, typer.Option("--security", help="Check what SECURITY.md claims instead.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check this machine; exit with 1 if something must be mended.

    Example: microvmd doctor --security
    """
    with reported():
        findings = examine(settings.load(), security_checks.CHECKS if security else CHECKS)
        if as_json:
            print_json(
                {
                    name: {"state": one.state, "why": one.why, "mend": one.mend}
                    for name, one in findings.items()
                }
            )
        else:
            _show(findings)
            _conclude(findings, security=security)
        if any(one.state == "failed" for one in findings.values()):
            raise typer.Exit(1)


def _show(findings: Mapping[str, Finding]) -> None:
    width = max(len(name) for name in findings)
    for name, one in findings.items():
        state = coloured(one.state) + " " * (7 - len(one.state))
        console.print(
            f"{state}  {name:<{width}}  {escape(one.why)}", highlight=False, soft_wrap=True
        )
        if one.mend:
            console.print(
                f"{'':7}  {'':{width}}  [bold]{escape(one.mend)}[/]",
                highlight=False,
                soft_wrap=True,
            )


def _conclude(findings: Mapping[str, Finding], *, security: bool) -> None:
    failed = sum(one.state == "failed" for one in findings.values())
    if security:
        weak = sum(one.state == "warning" for one in findings.values())
        console.print(f"\n{failed} claims of SECURITY.md do not hold here, {weak} are weakened.")
    elif failed:
        console.print(f"\n[red]{failed} to mend[/] before MicroVMs run here.")
    else:
        console.print("\nThis machine can run MicroVMs.")
