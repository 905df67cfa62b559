"""What one endpoint and one address may take of HAProxy, and that others have the rest.

With a limit off, the same clients take all there is: that is shown first.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import httpx
import pytest

from microvmd.edge import stats
from microvmd.edge.config import EdgeLimits
from tests.edgeguests import Guest, guest
from tests.edgelab import UNLIMITED, World, world
from tests.edgeweak import instead, weakened
from tests.h2frames import attacker, replaced, request

pytestmark = pytest.mark.security

DEFAULTS = EdgeLimits()
ATTACKER = "127.0.0.2"
FEW = 60
"""Connections that HAProxy takes in all, where a test uses them up."""


def _stream(endpoint: str, token: str) -> bytes:
    head = f"GET /stream HTTP/1.1\r\nHost: {endpoint}\r\nx-aws-proxy-auth: {token}\r\n\r\n"
    return head.encode()


@contextlib.asynccontextmanager
async def _dialled(
    w: World, source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TLS connection from an address of this machine, cut off at the end."""
    trust: ssl.SSLContext = w.trust
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        w.edge.port,
        ssl=trust,
        server_hostname=f"vm-a.{w.settings.suffix}",
        local_addr=(source, 0),
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def _streams(w: World, count: int) -> AsyncIterator[Counter[bytes]]:
    """So many requests of vm-a that stay open, each on its connection; their statuses."""
    statuses: Counter[bytes] = Counter()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            reader, writer = await stack.enter_async_context(_dialled(w))
            writer.write(_stream(w.edge.endpoint("vm-a"), w.token("vm-a", vcpus=1)))
            statuses[(await reader.readline()).split(b" ")[1]] += 1
        yield statuses


@contextlib.asynccontextmanager
async def _two(w: World) -> AsyncIterator[tuple[Guest, Guest]]:
    """vm-a, which is attacked or attacks, and vm-b, its neighbour."""
    async with guest("127.0.0.23") as first, guest("127.0.0.24") as second:
        await w.edge.routes.add("vm-a", "127.0.0.23")
        await w.edge.routes.add("vm-b", "127.0.0.24")
        yield first, second


async def _statuses(w: World, client: httpx.AsyncClient, count: int, name: str) -> Counter[int]:
    headers = {"X-aws-proxy-auth": w.token(name, vcpus=1)}
    return Counter([(await w.get(client, name, "/", headers)).status_code for _ in range(count)])


def test_requests_of_an_endpoint() -> None:
    most = DEFAULTS.requests_per_vcpu * 10

    async def scenario(limits: EdgeLimits) -> Counter[int]:
        async with world(limits) as w, _two(w) as (app, _), w.client() as client:
            found = await _statuses(w, client, most + 20, "vm-a")
            assert len(app.heads) == found[200]
            assert await _statuses(w, client, 5, "vm-b") == {200: 5}
            # Four processors, four times as many: the same endpoint with another token.
            headers = {"X-aws-proxy-auth": w.token("vm-a", vcpus=4)}
            assert (await w.get(client, "vm-a", "/", headers)).status_code == 200
            return found

    assert asyncio.run(scenario(UNLIMITED)) == {200: most + 20}
    only = replace(UNLIMITED, requests_per_vcpu=DEFAULTS.requests_per_vcpu)
    assert asyncio.run(scenario(only)) == {200: most, 429: 20}


LIMITS, TRACKED = "$ENDPOINT_LIMITS\n", "  http-request set-var(txn.arrived)"


def test_counted_refusals_would_keep_a_microvm_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the limits come after what counts, bytes of what is refused are activity."""
    weakened(monkeypatch, instead(LIMITS, ""), instead(TRACKED, LIMITS + TRACKED))

    async def scenario() -> None:
        async with world(replace(UNLIMITED, requests_per_vcpu=1)) as w, _two(w), w.client() as one:
            await _statuses(w, one, 15, "vm-a")
            moved = (await w.edge.activity())["vm-a"].bytes_total
            assert await _statuses(w, one, 5, "vm-a") == {429: 5}
            assert (await w.edge.activity())["vm-a"].bytes_total > moved

    asyncio.run(scenario())


def test_refused_requests_count_for_nothing() -> None:
    """A client that goes on asking is let in again all the same, and keeps nothing awake."""

    async def scenario() -> None:
        limits = replace(UNLIMITED, requests_per_vcpu=1)
        async with world(limits) as w, _two(w), w.client() as client:
            assert await _statuses(w, client, 15, "vm-a") == {200: 10, 429: 5}
            moved = (await w.edge.activity())["vm-a"].bytes_total
            assert await _statuses(w, client, 5, "vm-a") == {429: 5}
            assert (await w.edge.activity())["vm-a"].bytes_total == moved
            async with asyncio.timeout(60):
                while not (await _statuses(w, client, 1, "vm-a"))[200]:  # noqa: ASYNC110
                    await asyncio.sleep(0.5)

    asyncio.run(scenario())


def test_connections_of_an_endpoint() -> None:
    most = DEFAULTS.connections_per_vcpu

    async def scenario(limits: EdgeLimits) -> Counter[bytes]:
        async with world(limits) as w, _two(w) as (app, _), w.client() as client:
            async with _streams(w, most + 4) as found:
                assert await _statuses(w, client, 5, "vm-b") == {200: 5}
                # HTTP/2 carries many requests on a connection, so it is counted apart.
                async with w.client(http2=True) as other:
                    assert await _statuses(w, other, 3, "vm-a") == {200: 3}
            app.release.set()
            async with asyncio.timeout(30):
                while not (await _statuses(w, client, 1, "vm-a"))[200]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            return found

    assert asyncio.run(scenario(UNLIMITED)) == {b"200": most + 4}
    only = replace(UNLIMITED, connections_per_vcpu=most)
    assert asyncio.run(scenario(only)) == {b"200": most, b"429": 4}


def _seen(app: Guest, asked: Sequence[asyncio.Task[httpx.Response]]) -> int:
    """Requests that the application has, or that were answered without it."""
    return len(app.heads) + sum(task.done() for task in asked)


def test_streams_of_an_endpoint() -> None:
    """Over HTTP/2, where a single connection could have all of the guest."""
    most = 6

    async def scenario(limits: EdgeLimits) -> Counter[int]:
        async with world(limits) as w, _two(w) as (app, _), w.client(http2=True) as client:
            headers = {"X-aws-proxy-auth": w.token("vm-a", vcpus=1)}
            async with asyncio.TaskGroup() as tasks:
                asked = [
                    tasks.create_task(w.get(client, "vm-a", "/stream", headers))
                    for _ in range(most + 4)
                ]
                async with asyncio.timeout(30):
                    while _seen(app, asked) < most + 4:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                async with w.client(http2=True) as other:
                    assert await _statuses(w, other, 3, "vm-b") == {200: 3}
                app.release.set()
            return Counter(task.result().status_code for task in asked)

    assert asyncio.run(scenario(UNLIMITED)) == {200: most + 4}
    found = asyncio.run(scenario(replace(UNLIMITED, streams_per_vcpu=most)))
    # HAProxy's threads look before they count: one more each may slip through.
    assert found[200] in range(most, most + 3)
    assert found[429] == most + 4 - found[200]


@pytest.mark.parametrize("defended", [False, True])
def test_requests_that_are_held_count(defended: bool) -> None:
    """A MicroVM that resumes slowly cannot be used to take all connections."""
    most = DEFAULTS.connections_per_vcpu
    held = most if defended else 4 * most

    async def scenario() -> None:
        async with world(DEFAULTS if defended else UNLIMITED) as w, w.client() as client:
            w.hold("vm-a")
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(held):
                    _, writer = await stack.enter_async_context(_dialled(w))
                    writer.write(_stream(w.edge.endpoint("vm-a"), w.token("vm-a", vcpus=1)))
                async with asyncio.timeout(30):
                    found = await w.edge.activity()
                    while found["vm-a"].connections < held:
                        await asyncio.sleep(0.05)
                        found = await w.edge.activity()
                if defended:
                    assert await _statuses(w, client, 3, "vm-a") == {429: 3}

    asyncio.run(scenario())


def test_guessing_from_one_address() -> None:
    """Only what comes without a valid token is refused more curtly; the neighbour goes on."""
    most = 10

    async def scenario(limits: EdgeLimits) -> list[bytes]:
        async with world(limits) as w, _two(w), w.client() as client:
            host, answers = w.edge.endpoint("vm-a"), []
            for number in range(most + 5):
                text = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
                if number % 2:
                    text += f"x-aws-proxy-auth: {w.token('vm-b')}\r\n"
                answers.append((await w.raw("vm-a", f"{text}\r\n".encode())).split(b" ")[1])
            assert await _statuses(w, client, 5, "vm-a") == {200: 5}
            return answers

    assert asyncio.run(scenario(UNLIMITED)) == [b"403"] * (most + 5)
    found = asyncio.run(scenario(replace(UNLIMITED, refusals_per_source=most)))
    assert found[: most + 1] == [b"403"] * (most + 1)
    assert b"429" in found


@pytest.mark.parametrize("defended", [False, True])
def test_connections_from_one_address(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limit one address has them all, and a neighbour waits until they time out."""
    weakened(monkeypatch, instead("maxconn $MAXCONN", f"maxconn {FEW}"))
    limits = replace(UNLIMITED, connections_per_source=FEW // 3 if defended else 0)

    async def scenario() -> None:
        async with world(limits) as w, _two(w), contextlib.AsyncExitStack() as stack:
            refused = 0
            for _ in range(FEW):
                try:
                    _, writer = await stack.enter_async_context(_dialled(w, ATTACKER))
                except OSError:
                    refused += 1
                else:
                    writer.write(b"GET / HTTP/1.1\r\nHost: ")
            assert (refused >= FEW - FEW // 3 - 1) is defended
            async with w.client() as client:
                client.timeout = httpx.Timeout(3)
                if defended:
                    assert await _statuses(w, client, 5, "vm-b") == {200: 5}
                else:
                    with pytest.raises(httpx.TimeoutException):
                        await _statuses(w, client, 1, "vm-b")

    asyncio.run(scenario())


async def _counts(w: World) -> tuple[int, int]:
    """Requests that HAProxy has had, and its tasks, of which each request in progress is one."""
    shown = await stats.command(w.settings.files.stats_socket, "show info")
    found = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
    return int(found["CumReq"]), int(found["Tasks"])


@pytest.mark.parametrize("defended", [False, True])
def test_bodies_that_are_waited_for(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a buffer, whoever sends it: of one address as many as it may be refused."""
    weakened(monkeypatch, instead("wait-for-body time 5s", "wait-for-body time 60s"))
    most = DEFAULTS.refusals_per_source
    connections, streams = 5, 128

    async def scenario() -> None:
        limits = replace(UNLIMITED, refusals_per_source=most if defended else 0)
        async with world(limits) as w, contextlib.AsyncExitStack() as stack:
            port = ("x-aws-proxy-port", "1")
            fields = request(w, "vm-a", ("content-length", "10"), port, port)
            fields = replaced(fields, [(":method", "POST")])
            before, idle = await _counts(w)
            for _ in range(connections):
                peer = await stack.enter_async_context(attacker(w))
                numbers = range(1, 2 * streams, 2)
                await peer.send(*(peer.headers(number, fields, end=False) for number in numbers))
            wanted = range(idle, idle + 2 * most) if defended else range(3 * most, 1000)
            async with asyncio.timeout(60):
                requests, tasks = await _counts(w)
                while requests < before + connections * streams or tasks not in wanted:
                    await asyncio.sleep(0.05)
                    requests, tasks = await _counts(w)

    asyncio.run(scenario())
