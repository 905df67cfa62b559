"""One Edge with a real HAProxy on a free port, and clients that trust only its CA."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import websockets.asyncio.client
from websockets.typing import Subprotocol

from microvmd.control.tokens import Scope, TokenIssuer
from microvmd.edge.activity import Activity
from microvmd.edge.config import EdgeLimits, EdgeSettings
from microvmd.edge.edge import Edge
from microvmd.edge.resolve import Answer, Refuse
from microvmd.edge.shell import ShellDoor
from tests import lanes
from tests.edgeshell import LocalShell, local_shell

UNLIMITED = EdgeLimits(
    connections_per_vcpu=0,
    streams_per_vcpu=0,
    requests_per_vcpu=0,
    connections_per_source=0,
    refusals_per_source=0,
)


class World:
    """Edge, token issuer, and a resolver whose answers the test chooses."""

    def __init__(self, directory: Path, limits: EdgeLimits) -> None:
        self.settings = EdgeSettings(
            root=directory / "root",
            run=directory / "run",
            port=lanes.free_port(),
            threads=2,
            shells=2,
            limits=limits,
        )
        self.shells: asyncio.Queue[LocalShell] = asyncio.Queue()
        self.issuer = TokenIssuer(directory / "keys")
        self.answers: dict[str, asyncio.Future[Answer]] = {}
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.edge: Edge

    async def resolve(self, endpoint_id: str) -> Answer:
        self.asked.put_nowait(endpoint_id)
        try:
            future = self.answers.get(endpoint_id)
            return await asyncio.shield(future) if future else Refuse()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(endpoint_id)
            raise

    @contextlib.asynccontextmanager
    async def open_shell(self, endpoint_id: str) -> AsyncIterator[LocalShell]:
        async with local_shell() as shell:
            self.shells.put_nowait(shell)
            yield shell

    def hold(self, endpoint_id: str) -> asyncio.Future[Answer]:
        """Requests for it wait until the test sets the result."""
        self.answers[endpoint_id] = asyncio.get_running_loop().create_future()
        return self.answers[endpoint_id]

    def token(
        self,
        endpoint_id: str,
        ports: str = "*",
        *,
        seconds: float = 600,
        scope: Scope = "http",
        vcpus: int = 1,
    ) -> str:
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        return self.issuer.issue(endpoint_id, ports, expires, scope, vcpus=vcpus)

    def auth(self, endpoint_id: str, ports: str = "*") -> dict[str, str]:
        return {"X-aws-proxy-auth": self.token(endpoint_id, ports)}

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.edge.certificates.ca))

    def client(self, *, http2: bool = False) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            http2=http2, http1=not http2, verify=self.trust, timeout=20, trust_env=False
        )

    async def get(
        self,
        client: httpx.AsyncClient,
        endpoint_id: str,
        path: str = "/",
        headers: dict[str, str] | None = None,
        *,
        method: str = "GET",
        host: str | None = None,
    ) -> httpx.Response:
        """Dial loopback, whatever this machine's resolver makes of the endpoint's name."""
        return await client.request(
            method,
            f"https://127.0.0.1:{self.edge.port}{path}",
            headers={"Host": host or self.edge.endpoint(endpoint_id), **(headers or {})},
            extensions={"sni_hostname": f"{endpoint_id}.{self.settings.suffix}"},
        )

    def websocket(
        self,
        endpoint_id: str,
        subprotocols: list[str],
        headers: dict[str, str] | None = None,
        *,
        path: str = "/",
    ) -> websockets.asyncio.client.connect:
        return websockets.asyncio.client.connect(
            f"wss://{self.edge.endpoint(endpoint_id)}{path}",
            ssl=self.trust,
            host="127.0.0.1",
            port=self.edge.port,
            subprotocols=[Subprotocol(name) for name in subprotocols],
            additional_headers=headers,
            proxy=None,
        )

    async def active(self, condition: Callable[[Activity], bool]) -> Activity:
        """Activity of vm-a once it is so. HAProxy adds open streams' bytes every five seconds."""
        async with asyncio.timeout(30):
            while not condition(found := (await self.edge.activity())["vm-a"]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            return found

    async def raw(
        self,
        endpoint_id: str,
        request: bytes,
        *,
        alpn: str = "http/1.1",
        patience: float | None = None,
    ) -> bytes:
        """Send bytes as they are over TLS; everything that comes back until the close.

        With ``patience``, until nothing has come for so many seconds.
        """
        trust = self.trust
        trust.set_alpn_protocols([alpn])
        name = f"{endpoint_id}.{self.settings.suffix}"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.edge.port, ssl=trust, server_hostname=name
        )
        with contextlib.closing(writer):
            writer.write(request)
            if patience is None:
                async with asyncio.timeout(20):
                    return await reader.read()
            found = b""
            with contextlib.suppress(TimeoutError, OSError):
                while data := await asyncio.wait_for(reader.read(65536), patience):
                    found += data
            return found


@contextlib.asynccontextmanager
async def world(limits: EdgeLimits = UNLIMITED) -> AsyncIterator[World]:
    # Short: a UNIX socket's path holds 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="edge-"))
    try:
        made = World(directory, limits)
        async with running(made):
            yield made
    finally:
        shutil.rmtree(directory)


@contextlib.asynccontextmanager
async def running(made: World, *, stop: bool = True) -> AsyncIterator[Edge]:
    """The Edge of a world; `stop=False` leaves HAProxy running, as the end of the server does."""
    shells = ShellDoor(made.resolve, made.open_shell)
    async with Edge(
        made.settings, resolve=made.resolve, shells=shells, keys=made.issuer.keys
    ) as edge:
        made.edge = edge
        try:
            yield edge
        finally:
            if stop:
                await edge.stop()
