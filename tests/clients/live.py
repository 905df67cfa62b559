"""A running API for client tests: the real application under uvicorn, real control and store.

Only the node is in memory: it does at once what it is told and reports it, as a node does.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import uvicorn
from botocore.config import Config
from starlette.applications import Starlette

from microvmd.api.authenticate import Authenticator
from microvmd.api.connection import configure
from microvmd.api.credentials import Identity
from microvmd.api.handlers import control_handlers
from microvmd.api.listener import listen
from microvmd.api.local.relay import Relay
from microvmd.api.rates import Rates
from microvmd.api.service import create_app
from microvmd.control.admission import Admission
from microvmd.control.capacity import Capacity
from microvmd.control.connectors import Connectors
from microvmd.control.images import Images
from microvmd.control.managed import ManagedImages
from microvmd.control.microvms import MicroVms
from microvmd.control.paging import Cursors
from microvmd.control.store import Store
from microvmd.control.tokens import TokenIssuer
from microvmd.messages import node as messages
from microvmd.messages.capacity import Meter
from microvmd.model.identifiers import endpoint_name
from microvmd.model.image import SnapshotSizes
from microvmd.model.quota import Quotas
from microvmd.model.rate import RateLimits
from microvmd.node.log_reading import LogReader
from microvmd.node.logs import LogStore
from microvmd.service.identity import identities
from microvmd.service.local_aws import local_aws
from microvmd.service.routes.accounts import account_routes
from microvmd.service.routes.extensions import extension_routes
from microvmd.service.routes.facts import ServiceFacts
from microvmd.service.routes.limits import AccountLimits, limit_routes
from tests.clients.served import ServedLog, Witness

ACCOUNT = "123456789012"
REGION = "us-east-1"
MANAGED = ManagedImages(REGION)
KEY = Identity("AKIAMICROVMD", "secret/+key", ACCOUNT)
CONFIG: Any = Config(
    retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, parameter_validation=False
)
UNLIMITED = RateLimits({}, others=0)
MANY = Quotas(memory_mib=0, images=0, versions=0, builds=0)
FAIL = "s3://bucket/fails.zip"
"""An artifact whose build fails, as its Dockerfile would make it."""
HOLD = "s3://bucket/never-ends.zip"
"""An artifact whose build is still in progress when the test ends."""


@dataclass
class MemoryNode:
    """Carries commands out in memory; SUSPEND, RESUME and the rest succeed."""

    commands: "asyncio.Queue[messages.Command]" = field(default_factory=asyncio.Queue)

    async def send(self, command: messages.Command) -> None:
        # Of these nothing is reported.
        if not isinstance(command, messages.RetireVersion | messages.FreeSnapshot):
            await self.commands.put(command)

    async def work(self, images: Images, microvms: MicroVms, connectors: Connectors) -> None:
        """Report the outcome of every command, in order."""
        while True:
            for report in _outcome(await self.commands.get()):
                match report:
                    case messages.VersionDeleted():
                        await images.report_deleted(report)
                    case (
                        messages.BuildStarted() | messages.BuildSucceeded() | messages.BuildFailed()
                    ):
                        await images.report(report)
                    case messages.ConnectorProvisioned() | messages.ConnectorRevoked():
                        await connectors.report(report)
                    case _:
                        await microvms.report(report)


def _outcome(command: messages.Command) -> list[Any]:
    match command:
        case messages.BuildVersion(version=version, build_id=build_id, config=config):
            started = messages.BuildStarted(version, build_id)
            if config.code_artifact_uri == HOLD:
                return [started]
            if config.code_artifact_uri == FAIL:
                reason = "The container image build failed."
                return [started, messages.BuildFailed(version, build_id, reason)]
            sizes = SnapshotSizes(609_087_488, 186_400_768, 25_600_000)
            return [started, messages.BuildSucceeded(version, build_id, sizes)]
        case messages.DeleteVersion(version=version):
            return [messages.VersionDeleted(version)]
        case messages.StartMicrovm(spec=spec) | messages.ResumeMicrovm(spec=spec):
            return [messages.Started(spec.microvm_id, spec.generation, "10.0.0.2", {})]
        case messages.SuspendMicrovm(microvm_id=microvm_id, generation=generation):
            return [messages.Suspended(microvm_id, generation, {})]
        case messages.TerminateMicrovm(microvm_id=microvm_id, generation=generation):
            return [messages.Terminated(microvm_id, generation)]
        case messages.ProvisionConnector(connector_id=connector_id, number=number):
            return [messages.ConnectorProvisioned(connector_id, number)]
        case messages.RevokeConnector(connector_id=connector_id, numbers=numbers):
            return [messages.ConnectorRevoked(connector_id, numbers)]
    raise AssertionError(f"unknown command {command}")


@dataclass(frozen=True)
class LiveApi:
    """Where it listens; ``issuer`` reads the tokens handed out, ``served`` tells who asked what."""

    url: str
    issuer: TokenIssuer
    served: ServedLog

    def client(self, service: str, **options: Any) -> Any:
        """An unmodified boto3 client."""
        settings: dict[str, Any] = {
            "region_name": REGION,
            "endpoint_url": self.url,
            "aws_access_key_id": KEY.access_key,
            "aws_secret_access_key": KEY.secret_key,
            "config": CONFIG,
        }
        return boto3.client(service, **(settings | options))  # type: ignore[call-overload]


@dataclass(frozen=True)
class _Limits:
    """What the API refuses because there is too much of it."""

    rates: RateLimits = UNLIMITED
    admission: Admission = field(default_factory=lambda: Admission(MANY))


@contextlib.contextmanager
def live_api(
    directory: Path,
    rates: RateLimits = UNLIMITED,
    quotas: Quotas = MANY,
    meter: Meter | None = None,
) -> Iterator[LiveApi]:
    """Serve in a thread of its own until the block ends."""
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    up, down = threading.Event(), threading.Event()
    failure: list[BaseException] = []
    limits = _Limits(rates, Admission(quotas, Capacity(meter=meter)))
    found = LiveApi(url, TokenIssuer(directory / "keys"), ServedLog())

    def serve() -> None:
        try:
            asyncio.run(_serve(directory, listener, found, limits, up, down))
        except BaseException as error:  # shown in the test's thread
            failure.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=serve, name="live api")
    thread.start()
    try:
        assert up.wait(60)
        assert not failure, failure
        yield found
    finally:
        down.set()
        thread.join(60)
        listener.close()
    assert not failure, failure


async def _serve(
    directory: Path,
    listener: socket.socket,
    found: LiveApi,
    limits: _Limits,
    up: threading.Event,
    down: threading.Event,
) -> None:
    async with (
        Store.at(directory / "state.db") as store,
        local_aws(directory, directory / "local-aws.log", keep=False) as aws,
        application(store, directory, found.issuer, aws.socket, limits) as app,
    ):
        witnessed = Witness(app, found.served)
        server = uvicorn.Server(configure(witnessed))
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listener]))
            up.set()
            await asyncio.to_thread(down.wait)
            server.should_exit = True
            await serving


@contextlib.asynccontextmanager
async def application(
    store: Store,
    directory: Path,
    issuer: TokenIssuer,
    aws_socket: Path | None = None,
    limits: _Limits | None = None,
) -> AsyncIterator[Starlette]:
    """The API over control and store. Without a local AWS server, its services are refused."""
    limits = limits or _Limits()
    async with (
        _control(store, limits.admission) as (images, microvms, connectors),
        identities(store, directory / "keys", KEY) as who,
        LogStore(directory / "logs") as logs,
    ):
        handlers = control_handlers(
            images,
            microvms,
            issuer,
            connectors=connectors,
            managed=MANAGED,
            endpoint_name=lambda endpoint: endpoint_name(endpoint, REGION, "microvm.localhost"),
        )
        facts = ServiceFacts(ACCOUNT, store, microvms, LogReader(logs).lines, _no_vmm, _no_edge)
        authenticate = Authenticator(who.ring, REGION)
        rates = Rates(limits.rates)
        account_limits = AccountLimits(store, limits.admission, limits.rates, rates)
        relay = None
        if aws_socket is not None:
            relay = Relay(aws_socket, who.ring, ACCOUNT)
            who.ring.roles = relay.iam
        yield create_app(
            handlers,
            who.ring,
            relay,
            region=REGION,
            routes=[
                *extension_routes(facts, authenticate, who.authorizer),
                *limit_routes(account_limits, authenticate, who.authorizer, ACCOUNT),
                *account_routes(who.accounts, authenticate, ACCOUNT),
            ],
            authorize=who.authorizer,
            rates=rates,
        )


async def _no_vmm(_: str) -> None:
    """No MicroVM has one."""


async def _no_edge() -> None:
    """There is none whose health could be bad."""


@contextlib.asynccontextmanager
async def _control(
    store: Store, admission: Admission
) -> AsyncIterator[tuple[Images, MicroVms, Connectors]]:
    import time

    cursors, node = Cursors(b"k" * 32), MemoryNode()
    routes = _Routes()
    async with MicroVms(
        store, node, routes, cursors, time.time, MANAGED, admission=admission
    ) as microvms:
        images = Images(store, node, cursors, time.time, MANAGED, admission=admission)
        connectors = Connectors(store, node, cursors, time.time, REGION)
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(node.work(images, microvms, connectors))
            yield images, microvms, connectors
            working.cancel()


@dataclass
class _Routes:
    addresses: dict[str, str] = field(default_factory=dict)

    async def add(self, endpoint_id: str, address: str) -> None:
        self.addresses[endpoint_id] = address

    async def remove(self, endpoint_id: str) -> None:
        self.addresses.pop(endpoint_id, None)
