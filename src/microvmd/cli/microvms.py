"""Commands on MicroVMs: run, ps, suspend, resume, terminate, logs, curl."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from microvmd.cli import completion
from microvmd.cli.client import (
    IDLE_SECONDS,
    LIVE,
    PORT_HEADER,
    SUSPENDED_SECONDS,
    TOKEN_HEADER,
    Service,
    idle_policy,
)
from microvmd.cli.completion import Identifier, Identifiers
from microvmd.cli.egress import arn_of
from microvmd.cli.failure import reported
from microvmd.cli.output import (
    JsonFlag,
    Narrow,
    age,
    print_each,
    print_json,
    print_raw,
    print_table,
    stderr,
    without_metadata,
)
from microvmd.cli.waiting import wait_for_microvm
from microvmd.model.hooks import APPLICATION_PORT
from microvmd.service.failure import Failure
from microvmd.settings import settings

WaitFlag = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done.")]


def run(
    image: Annotated[
        str, typer.Argument(help="Name or ARN of an image.", autocompletion=completion.images)
    ],
    version: Annotated[str | None, typer.Option(help="Image version, as 1.0.")] = None,
    idle: Annotated[
        int, typer.Option(help="Suspend after this many seconds without traffic (>= 60; 0: never).")
    ] = IDLE_SECONDS,
    suspended: Annotated[
        int, typer.Option(help="Terminate after this many seconds suspended.")
    ] = SUSPENDED_SECONDS,
    max_duration: Annotated[
        int | None, typer.Option(help="Terminate after this many seconds whatever happens.")
    ] = None,
    payload: Annotated[str | None, typer.Option(help="Handed to the /run hook.")] = None,
    execution_role: Annotated[str | None, typer.Option(help="Role ARN of the guest.")] = None,
    shell: Annotated[bool, typer.Option(help="Allow shells in it (SHELL_INGRESS).")] = False,
    egress: Annotated[
        list[str] | None,
        typer.Option(help="What it may reach: NO_EGRESS or a connector's ARN; may be repeated."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Return when it is RUNNING.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Run a MicroVM of an image and print its id; its endpoint goes to stderr.

    Example: microvmd run app --idle 300 --payload hello
    """
    with reported():
        service = Service(settings.load())
        given: Any = {
            "imageIdentifier": service.image_arn(image),
            "imageVersion": version,
            "idlePolicy": idle_policy(idle, suspended) if idle else None,
            "maximumDurationInSeconds": max_duration,
            "runHookPayload": payload,
            "executionRoleArn": execution_role,
        }
        request = {name: value for name, value in given.items() if value is not None}
        if shell:
            request["ingressNetworkConnectors"] = service.shell_connectors
        if egress:
            request["egressNetworkConnectors"] = [arn_of(service.region, name) for name in egress]
        answer = without_metadata(service.microvms.run_microvm(**request))
        if wait:
            answer = wait_for_microvm(service, answer["microvmId"], "RUNNING")
        if as_json:
            print_json(answer)
            return
        print_raw(answer["microvmId"])
        stderr.print(f"[dim]https://{answer['endpoint']}/[/]", soft_wrap=True)
        short = answer["microvmId"][:16]
        stderr.print(f"[dim]next: microvmd curl {short} /[/]", soft_wrap=True)
        if shell:
            stderr.print(f"[dim]next: microvmd shell {short}[/]", soft_wrap=True)


def ps(
    everything: Annotated[bool, typer.Option("--all", help="Show ended ones too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List MicroVMs, newest first.

    Example: microvmd ps --all
    """
    with reported():
        service = Service(settings.load())
        items = [item for item in service.list_microvms() if everything or item["state"] in LIVE]
        if as_json:
            print_json(items)
            return
        print_table(
            ["MICROVM", "STATE", "IMAGE", "VERSION", "AGE"],
            [
                [
                    item["microvmId"],
                    item["state"],
                    item["imageArn"].rpartition(":")[2],
                    item["imageVersion"],
                    age(item["startedAt"]),
                ]
                for item in items
            ],
            Narrow(("VERSION", "AGE"), cut="IMAGE"),
        )


def suspend(microvms: Identifiers, wait: WaitFlag = True, as_json: JsonFlag = False) -> None:
    """Write the memory to disk and end the virtual machine.

    Example: microvmd suspend 12ab
    """
    _each(
        microvms,
        lambda service, name: service.microvms.suspend_microvm(microvmIdentifier=name),
        "SUSPENDED" if wait else None,
        as_json=as_json,
    )


def resume(microvms: Identifiers, wait: WaitFlag = True, as_json: JsonFlag = False) -> None:
    """Go on where it was suspended. A request to its endpoint does the same.

    Example: microvmd resume 12ab
    """
    _each(
        microvms,
        lambda service, name: service.microvms.resume_microvm(microvmIdentifier=name),
        "RUNNING" if wait else None,
        as_json=as_json,
    )


def terminate(microvms: Identifiers, wait: WaitFlag = True, as_json: JsonFlag = False) -> None:
    """End for good.

    Example: microvmd terminate 12ab 34cd
    """
    _each(
        microvms,
        lambda service, name: service.microvms.terminate_microvm(microvmIdentifier=name),
        "TERMINATED" if wait else None,
        as_json=as_json,
    )


def _each(
    microvms: list[str],
    act: Callable[[Service, str], Any],
    wanted: str | None,
    *,
    as_json: bool,
) -> None:
    with reported():
        service = Service(settings.load())
        names = [service.find_microvm(text) for text in microvms]
        for name in names:
            act(service, name)
        found = []
        for name in names:
            if wanted is not None:
                found.append(wait_for_microvm(service, name, wanted))
            elif as_json:
                found.append(_state_of(service, name))
            if not as_json:
                print_raw(name)
        if as_json:
            print_json(found)


def _state_of(service: Service, name: str) -> dict[str, Any]:
    return without_metadata(service.microvms.get_microvm(microvmIdentifier=name))


def logs(
    microvm: Identifier,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print what the application wrote to stdout and stderr.

    Example: microvmd logs 12ab --follow
    """
    with reported():
        service = Service(settings.load())
        facts = service.facts(service.find_microvm(microvm))
        lines = service.logs(facts["log_group"], facts["log_stream"], follow=follow)
        print_each(map(asdict, lines), lambda line: str(line["message"]), as_json=as_json)


def curl(
    microvm: Identifier,
    path: Annotated[str, typer.Argument(help="Path on the MicroVM's endpoint.")] = "/",
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Further arguments, for curl itself.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the application.")
    ] = APPLICATION_PORT,
) -> None:
    """Call an endpoint with curl; a token for this port is made for you.

    Example: microvmd curl 12ab /health --port 3000
    """
    with reported():
        service = Service(settings.load())
        name = service.find_microvm(microvm)
        endpoint = service.microvms.get_microvm(microvmIdentifier=name)["endpoint"]
        program = shutil.which("curl")
        if program is None:
            raise Failure("curl is not installed", "apt-get install curl")
        headers = header_file(service.token(name, port), port)
        argv = curl_command(service.ca_file, endpoint, path, headers, arguments or [])
        # Replaces this process: the terminal, the signals and the exit code are curl's.
        os.execv(program, argv)  # noqa: S606 - an argv, no shell


def header_file(token: str, port: int) -> int:
    """A descriptor that curl inherits: who lists processes sees its argv, but not this."""
    descriptor = os.memfd_create("headers", 0)
    os.write(descriptor, f"{TOKEN_HEADER}: {token}\n{PORT_HEADER}: {port}\n".encode())
    return descriptor


def curl_command(
    ca_file: Path, endpoint: str, path: str, headers: int, arguments: list[str]
) -> list[str]:
    """The command line of curl, which reads the token's header from a descriptor."""
    argv = ["curl", "--silent", "--show-error", "--cacert", str(ca_file)]
    argv += ["--header", f"@/dev/fd/{headers}"]
    return [*argv, *arguments, f"https://{endpoint}/{path.lstrip('/')}"]
