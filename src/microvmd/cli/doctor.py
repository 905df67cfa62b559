"""``microvmd doctor``: every check, why it says so, and how to mend it.

With ``--security`` the claims of SECURITY.md instead, each looked at on this machine.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, coloured, console, print_json
from microvmd.settings import settings

if TYPE_CHECKING:
    from microvmd.cli.checks import Finding


def doctor(
    security: Annotated[
        bool, typer.Option("--security", help="Check what SECURITY.md claims instead.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check this machine; exit with 1 if something must be mended.

    Example: microvmd doctor --security
    """
    # They import the whole service, and no other command should wait for that.
    from microvmd.cli import checks, security_checks

    with reported():
        every = security_checks.CHECKS if security else checks.all_checks()
        findings = checks.examine(settings.load(), every)
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


def _show(findings: "Mapping[str, Finding]") -> None:
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


def _conclude(findings: "Mapping[str, Finding]", *, security: bool) -> None:
    failed = sum(one.state == "failed" for one in findings.values())
    if security:
        weak = sum(one.state == "warning" for one in findings.values())
        console.print(f"\n{failed} claims of SECURITY.md do not hold here, {weak} are weakened.")
    elif failed:
        console.print(f"\n[red]{failed} to mend[/] before MicroVMs run here.")
    else:
        console.print("\nThis machine can run MicroVMs.")
