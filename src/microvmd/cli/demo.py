"""``microvmd demo``: the whole life of one MicroVM, with proof and time for each step.

It uses the service that runs, or starts one for itself, and asks it through the AWS API like any
client. What it claims it checks: the certificate, the counter in memory, the VMM that is gone.
"""

import asyncio
import json
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
from rich.markup import escape

from microvmd.cli.client import Service, idle_policy
from microvmd.cli.images import BuildOptions, build_image
from microvmd.cli.output import console, duration
from microvmd.cli.waiting import poll, wait_for_microvm
from microvmd.service.failure import Failure
from microvmd.service.routes import PREFIX
from microvmd.settings.settings import Settings
from microvmd.vmm.process import Process, ProcessIdentity, spawn

IMAGE = "demo-hello"
START_SECONDS = 120.0
LOG_LINES = 25
SERVICE_LOG = "demo-serve.log"
LABEL_WIDTH = 46


def default_example() -> Path:
    """``examples/hello`` of the checkout. Raises Failure in an installation without one."""
    found = Path(__file__).parents[3] / "examples" / "hello"
    if not found.is_dir():
        raise Failure(
            "the examples are in the checkout only", "name one: microvmd demo --example DIR"
        )
    return found


def run_demo(settings: Settings, example: Path) -> None:
    """All steps. Raises Failure at the first that does not hold what it promises."""
    asyncio.run(_demo(settings, example))


async def _demo(settings: Settings, example: Path) -> None:
    began = time.monotonic()
    async with running_service(settings) as started:
        service = Service(settings)
        await asyncio.to_thread(_walk, service, example)
    console.print(f"\nAll of it: {duration(time.monotonic() - began)}")
    if started:
        console.print(f"Next: [bold]./run serve[/], then [bold]microvmd run {IMAGE}[/]")
    else:
        console.print(f"Next: [bold]microvmd run {IMAGE}[/]")


@asynccontextmanager
async def running_service(settings: Settings) -> AsyncIterator[bool]:
    """A service that answers; True when it was started for this, and is stopped afterwards."""
    with step("find the service") as said:
        running = await asyncio.to_thread(_healthy, settings)
        if running:
            said(f"it runs at {settings.api.url}")
        else:
            said("none runs here: starting one")
    if running:
        yield False
        return
    settings.root.mkdir(parents=True, exist_ok=True)
    with (settings.root / SERVICE_LOG).open("w+b") as log:
        argv = [str(Path(sys.executable).parent / "microvmd"), "serve"]
        async with spawn(argv, stdout=log, stderr=log) as process:
            with step("start the service") as said:
                await asyncio.to_thread(_wait_until_healthy, settings, process, log)
                said(settings.api.url)
            yield True


def _healthy(settings: Settings) -> bool:
    try:
        url = f"{settings.api.url}{PREFIX}/health"
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _wait_until_healthy(settings: Settings, process: Process, log: IO[bytes]) -> None:
    def ask() -> bool | None:
        if process.exited:
            return False
        return True if _healthy(settings) else None

    if poll(ask, limit=START_SECONDS) is not True:
        log.seek(0)
        last = log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        raise Failure(
            "the service does not start. It says:\n" + "\n".join(f"    {line}" for line in last),
            "microvmd doctor tells what this machine lacks",
        )


def _walk(service: Service, example: Path) -> None:
    with step(f"build the image from {example.name}/Dockerfile", own_line=True) as said:
        image = build_image(service, example, BuildOptions(name=IMAGE), show_log=True)
        said(f"{IMAGE} {image['imageVersion']}")
    _delete_older_versions(service, image)

    with step("run a MicroVM, first answer over HTTPS") as said:
        microvm = service.microvms.run_microvm(
            imageIdentifier=image["imageArn"], idlePolicy=idle_policy()
        )
        name, endpoint = microvm["microvmId"], microvm["endpoint"]
        token = service.token(name)
        answer = _ok(service.call(endpoint, "/", token=token))
        said(answer.text.strip().splitlines()[0][:80])
    try:
        _live(service, name, endpoint, token)
    finally:
        with step("terminate"):
            service.microvms.terminate_microvm(microvmIdentifier=name)
            wait_for_microvm(service, name, "TERMINATED")


def _live(service: Service, name: str, endpoint: str, token: str) -> None:
    with step("check the certificate") as said:
        said(_certificate(service, endpoint))
    with step("count to 3 in the application's memory") as said:
        for _ in range(3):
            count = _count(service, endpoint, token)
        said(f"counter is {count}")
        _require(count == 3, f"the counter is {count}, not 3")

    wait_for_microvm(service, name, "RUNNING")
    vmm = service.facts(name)["vmm"]
    identity = ProcessIdentity(vmm["pid"], vmm["start_time"])
    _require(identity.alive(), f"no process {identity.pid} although the MicroVM is RUNNING")
    with step("suspend") as said:
        service.microvms.suspend_microvm(microvmIdentifier=name)
        wait_for_microvm(service, name, "SUSPENDED")
        _require(not identity.alive(), f"the VMM, process {identity.pid}, is still there")
        said(f"its VMM, process {identity.pid}, is gone")

    with step("one request resumes it") as said:
        count = _count(service, endpoint, token)
        said(f"counter is {count}")
        _require(count == 4, f"the counter is {count}, not 4: the memory was lost")
    with step("see the new VMM") as said:
        wait_for_microvm(service, name, "RUNNING")
        resumed = service.facts(name)["vmm"]
        _require(resumed["pid"] != identity.pid, "the MicroVM was not suspended at all")
        said(f"process {resumed['pid']}")


def _delete_older_versions(service: Service, image: dict[str, Any]) -> None:
    """Every demo makes a version; an account has room for 50."""
    arn = image["imageArn"]
    pages = service.microvms.get_paginator("list_microvm_image_versions").paginate(
        imageIdentifier=arn
    )
    for item in [item for page in pages for item in page["items"]]:
        if item["imageVersion"] == image["imageVersion"] or item["state"] == "DELETING":
            continue
        # One that somebody still runs stays.
        with suppress(service.microvms.exceptions.ConflictException):
            service.microvms.delete_microvm_image_version(
                imageIdentifier=arn, imageVersion=item["imageVersion"]
            )


def _certificate(service: Service, endpoint: str) -> str:
    """Who vouches for the endpoint; a client that does not trust them must be refused."""
    host, _, port = endpoint.partition(":")
    trust = ssl.create_default_context(cafile=str(service.ca_file))
    with _connection(host, int(port or 443), trust) as connection:
        certificate: Any = connection.getpeercert()
    issuer = dict(pair for group in certificate["issuer"] for pair in group)
    try:
        with _connection(host, int(port or 443), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)):
            pass
    except ssl.SSLCertVerificationError:
        return f"verified, issued by {issuer.get('commonName')}"
    raise Failure("a client that does not know our certificate authority was served")


@contextmanager
def _connection(host: str, port: int, trust: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((host, port), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname=host) as connection,
    ):
        yield connection


def _count(service: Service, endpoint: str, token: str) -> int:
    answer = _ok(service.call(endpoint, "/count", token=token, method="POST"))
    return int(json.loads(answer.text)["count"])


def _ok(answer: httpx.Response) -> httpx.Response:
    _require(
        answer.status_code == 200,
        f"{answer.request.url.path} answered {answer.status_code}: {answer.text[:200]}",
    )
    return answer


def _require(held: bool, otherwise: str) -> None:
    if not held:
        raise Failure(otherwise, f"the service's log tells more ({SERVICE_LOG} if this started it)")


class Said:
    """What a step found out, for its line."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, text: str) -> None:
        self.text = text


@contextmanager
def step(label: str, *, own_line: bool = False) -> Iterator[Said]:
    """Print a line for the block: what it does, its time, what it found."""
    said = Said()
    began = time.monotonic()
    if own_line:
        console.print(f"[bold]{escape(label)}[/]")
    yield said
    took = duration(time.monotonic() - began)
    line = f"[green]✓[/] {escape(label):<{LABEL_WIDTH}} [bold]{took:>8}[/]"
    console.print(f"{line}  [dim]{escape(said.text)}[/]", highlight=False, soft_wrap=True)
