"""The ``microvmd`` command: names the verbs and hands each to its module.

The modules are imported when their verb is called: the service needs far more than a client, and
``microvmd ps`` should not wait for it.
"""

import logging
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from microvmd import __version__
from microvmd.cli import (
    accounts,
    audit,
    bases,
    console,
    doctor,
    egress,
    events,
    images,
    limits,
    microvms,
    stop,
    top,
    usage,
)
from microvmd.cli.client import Service
from microvmd.cli.completion import Identifier
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, print_json, print_raw
from microvmd.settings.names import setting_names, variable
from microvmd.settings.settings import Settings, load
from microvmd.vmm.cores import leave_none

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Self-hosted AWS Lambda MicroVMs.",
)
app.add_typer(images.app, name="images")
app.add_typer(bases.app, name="base")
app.add_typer(console.app, name="console")
app.add_typer(accounts.accounts, name="accounts")
app.add_typer(accounts.users, name="users")
app.add_typer(accounts.policies, name="policies")
app.add_typer(accounts.keys, name="keys")
app.add_typer(egress.network, name="network")
for command in (
    microvms.run,
    microvms.ps,
    top.top,
    microvms.suspend,
    microvms.resume,
    microvms.terminate,
    microvms.logs,
    egress.egress,
    events.events,
    audit.audit,
    limits.limits,
    usage.usage,
    doctor.doctor,
    stop.stop,
):
    app.command()(command)
# What follows the path belongs to curl, options too.
app.command(context_settings={"ignore_unknown_options": True})(microvms.curl)


def _version(wanted: bool) -> None:
    if wanted:
        print_raw(f"microvmd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Of the service's own messages a command shows what is wrong; ``serve`` sets up its log itself.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


@app.command()
def serve(
    root: Annotated[Path | None, typer.Option(help="Directory that survives restarts.")] = None,
    api_host: Annotated[str | None, typer.Option(help="Address of the API.")] = None,
    api_port: Annotated[int | None, typer.Option(help="Port of the API.")] = None,
    edge_port: Annotated[str | None, typer.Option(help="Port of the endpoints, or auto.")] = None,
    domain: Annotated[str | None, typer.Option(help="Domain of the endpoints.")] = None,
    vmm: Annotated[str | None, typer.Option(help="qemu, firecracker or auto.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, kvm or tcg.")] = None,
    isolation: Annotated[
        str | None, typer.Option(help="Of builds: microvm, or namespace for trusted ones.")
    ] = None,
) -> None:
    """Run the service in the foreground. ``microvmd settings`` lists what else can be set.

    Example: microvmd serve --root /srv/microvmd --api-port 9480
    """
    with reported():
        flags = {
            "root": root,
            "api": _section(host=api_host, port=api_port),
            "edge": _section(port=edge_port, domain=domain),
            "vmm": _section(kind=vmm, accelerator=accelerator),
            "build": _section(isolation=isolation),
        }
        found = load(**flags)
        from microvmd.service.serve import serve as run_service

        leave_none()
        run_service(found)


@app.command()
def node() -> None:
    """Run the node in the foreground, as root, for a serve that is started without root.

    A serve that is started as root brings its own.

    Example: microvmd node
    """
    from microvmd.service.node import run_node

    leave_none()
    with reported():
        run_node(load())


def _section(**values: object) -> dict[str, object] | None:
    given = {name: value for name, value in values.items() if value is not None}
    return given or None


@app.command()
def shell(
    microvm: Identifier,
) -> None:
    """Open a shell in a MicroVM that was run with --shell; ~. at the begin of a line leaves it.

    What comes from a pipe or a file is typed: microvmd shell ID < script

    Example: microvmd shell 12ab
    """
    from microvmd.cli.shell import open_shell

    with reported():
        open_shell(Service(load()), microvm)


@app.command()
def demo(
    example: Annotated[Path | None, typer.Option(help="Directory of the application.")] = None,
) -> None:
    """Build, run, suspend and resume an application; every step prints its time.

    Example: microvmd demo
    """
    from microvmd.cli.demo import default_example, run_demo

    with reported():
        run_demo(load(), example or default_example())


@app.command()
def settings(
    as_json: JsonFlag = False,
    markdown: Annotated[
        bool, typer.Option(help="The reference page of the documentation.")
    ] = False,
) -> None:
    """Show every setting: its value here, its variable, its meaning.

    Example: microvmd settings --json
    """
    with reported():
        if markdown:
            print_raw(reference_page())
            return
        found = load()
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        for name, (_, meaning) in setting_names().items():
            print_raw(f"{name} = {_value(found, name)}\n    {variable(name)}: {meaning}")


def _value(found: Settings, name: str) -> str:
    value: Any = found
    for part in name.split("."):
        value = getattr(value, part)
    return "" if value in (None, ()) else str(value)


def reference_page() -> str:
    """``docs/reference/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Made by `microvmd settings --markdown`. Flags of `microvmd serve` win over variables,",
        "variables over `/etc/microvmd/config.toml` (or the file that `MICROVMD_CONFIG` names);",
        "a name with a dot is a key of a table in that file. A list is JSON in a variable.",
        "",
        "| setting | variable | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, (default, meaning) in setting_names().items():
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{name}` | `{variable(name)}` | {shown} | {meaning} |")
    return "\n".join(lines)
