"""Thousands of slow connections: others go on, memory is bounded.

A neighbour asks its own endpoint for as long as the attack lasts, and every answer must be 200.
What an endpoint's limits keep away is shown in test_endpoint_limits, floods of HTTP/2 frames in
test_endpoint_floods.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator

import pytest

from microvmd.edge.config import EdgeLimits
from tests.edgeguests import guest
from tests.edgelab import World, world
from tests.edgeneighbour import neighbour, resident, worker

pytestmark = [pytest.mark.security, pytest.mark.timeout(600)]

SLOW = 2000
ATTACKER = "127.0.0.2"
DIALLING = 50
"""Handshakes at a time."""
PER_CONNECTION = 160 << 10
"""Bytes that HAProxy may take for one: TLS, and a buffer for what is not complete."""
GUEST_LIMIT = EdgeLimits().connections_per_vcpu


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Both ends of some connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, SLOW + 2000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _slow(w: World, kind: str) -> bytes:
    """What each connection sends before it waits."""
    token = w.token("vm-a", vcpus=1)
    start = f"Host: {w.edge.endpoint('vm-a')}\r\nx-aws-proxy-auth: {token}\r\n"
    return {
        "head": f"GET / HTTP/1.1\r\n{start}X-Slow: ",
        "head without a token": "GET / HTTP/1.1\r\nHost: ",
        "body": f"POST / HTTP/1.1\r\n{start}Content-Length: 1000000\r\n\r\nx",
        "body without a token": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx",
        "answer": f"GET /stream HTTP/1.1\r\n{start}\r\n",
    }[kind].encode()


@pytest.mark.parametrize(
    "kind", ["head", "head without a token", "body", "body without a token", "answer"]
)
def test_slow_connections(kind: str) -> None:
    async def scenario() -> None:
        async with (
            world(EdgeLimits(refusals_per_source=0)) as w,
            guest("127.0.0.27") as app,
            guest("127.0.0.28"),
            contextlib.AsyncExitStack() as stack,
        ):
            await w.edge.routes.add("vm-a", "127.0.0.27")
            await w.edge.routes.add("vm-b", "127.0.0.28")
            pid, text, trust = await worker(w), _slow(w, kind), w.trust
            before, gate = resident(pid), asyncio.Semaphore(DIALLING)

            async def dial() -> bool:
                """False when HAProxy has enough of this address: a quarter of all it takes."""
                with contextlib.suppress(OSError):
                    async with gate:
                        _, writer = await asyncio.open_connection(
                            "127.0.0.1",
                            w.edge.port,
                            ssl=trust,
                            server_hostname=f"vm-a.{w.settings.suffix}",
                            ssl_handshake_timeout=300,
                            local_addr=(ATTACKER, 0),
                        )
                    stack.callback(writer.transport.abort)
                    writer.write(text)
                    return True
                return False

            async with neighbour(w):
                async with asyncio.TaskGroup() as tasks:
                    dialled = [tasks.create_task(dial()) for _ in range(SLOW)]
                assert sum(one.result() for one in dialled) > SLOW // 20
                assert resident(pid) - before < SLOW * PER_CONNECTION
            # HAProxy's threads look before they count: one more each may slip through.
            assert len(app.heads) <= GUEST_LIMIT + 2
            assert await worker(w) == pid

    asyncio.run(scenario())
