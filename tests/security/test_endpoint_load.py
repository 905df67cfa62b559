"""Thousands of slow connections and floods of HTTP/2 frames: others go on, memory is bounded.

A neighbour asks its own endpoint for as long as the attack lasts, and every answer must be 200.
What an endpoint's limits keep away is shown in test_endpoint_limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from hpack import Decoder

from microvmd.edge import stats
from microvmd.edge.config import EdgeLimits
from tests.edgeguests import guest
from tests.edgelab import World, world
from tests.h2frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    H2Attacker,
    attacker,
    frame,
    request,
)

pytestmark = [pytest.mark.security, pytest.mark.timeout(600)]

SLOW = 2000
ATTACKER = "127.0.0.2"
DIALLING = 50
"""Handshakes at a time."""
PER_CONNECTION = 160 << 10
"""Bytes that HAProxy may take for one: TLS, and a buffer for what is not complete."""
FLOOD_MEMORY = 64 << 20
FRAMES = 20_000
BATCH = 500
PART = 2_000
"""Of a flood, where what each of its frames costs is counted."""
GUEST_LIMIT = EdgeLimits().connections_per_vcpu


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Both ends of some connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, SLOW + 2000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _worker(w: World) -> int:
    shown = await stats.command(w.settings.files.master_socket, "show proc")
    return stats.parse_processes(shown)["worker"][0]


def _resident(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.asynccontextmanager
async def _neighbour(w: World) -> AsyncIterator[Counter[int]]:
    """Asks vm-b all the time; fails unless each answer was 200 and there were some."""
    statuses: Counter[int] = Counter()
    over = asyncio.Event()

    async def ask_on() -> None:
        headers = {"X-aws-proxy-auth": w.token("vm-b", vcpus=1000)}
        while not over.is_set():
            # Connections of its own: new ones must be let in, too.
            async with w.client() as client:
                for _ in range(5):
                    statuses[(await w.get(client, "vm-b", "/", headers)).status_code] += 1

    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask_on())
        try:
            yield statuses
        finally:
            over.set()
        await asking
    assert set(statuses) == {200}, statuses
    assert statuses[200] >= 5


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
            pid, text, trust = await _worker(w), _slow(w, kind), w.trust
            before, gate = _resident(pid), asyncio.Semaphore(DIALLING)

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

            async with _neighbour(w):
                async with asyncio.TaskGroup() as tasks:
                    dialled = [tasks.create_task(dial()) for _ in range(SLOW)]
                assert sum(one.result() for one in dialled) > SLOW // 20
                assert _resident(pid) - before < SLOW * PER_CONNECTION
            # HAProxy's threads look before they count: one more each may slip through.
            assert len(app.heads) <= GUEST_LIMIT + 2
            assert await _worker(w) == pid

    asyncio.run(scenario())


def _resets(w: World, peer: H2Attacker) -> Iterator[bytes]:
    fields = request(w, "vm-a")
    for stream in range(1, 2 * FRAMES, 2):
        yield peer.headers(stream, fields) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")


def _resets_without_a_token(w: World, peer: H2Attacker) -> Iterator[bytes]:
    fields = request(w, "vm-a")[:4]
    for stream in range(1, 2 * FRAMES, 2):
        yield peer.headers(stream, fields) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")


def _continuations(w: World, peer: H2Attacker) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, peer.encoder.encode(request(w, "vm-a")))
    for number in range(FRAMES):
        yield frame(CONTINUATION, 0, 1, peer.encoder.encode([(f"x-{number}", "y" * 200)]))


def _empty_continuations(w: World, peer: H2Attacker) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, peer.encoder.encode(request(w, "vm-a")))
    for _ in range(FRAMES):
        yield frame(CONTINUATION, 0, 1)


def _settings(w: World, peer: H2Attacker) -> Iterator[bytes]:
    for number in range(FRAMES):
        yield frame(SETTINGS, 0, 0, b"\0\4" + (number % 60_000 + 1).to_bytes(4, "big"))


def _pings(w: World, peer: H2Attacker) -> Iterator[bytes]:
    for _ in range(FRAMES):
        yield frame(PING, 0, 0, b"12345678")


def _empty_data(w: World, peer: H2Attacker) -> Iterator[bytes]:
    yield peer.headers(1, request(w, "vm-a"), end=False)
    for _ in range(FRAMES):
        yield frame(DATA, 0, 1)


def _priorities(w: World, peer: H2Attacker) -> Iterator[bytes]:
    for stream in range(1, 2 * FRAMES, 2):
        yield frame(PRIORITY, 0, stream, b"\0\0\0\0\x10")


def _window_updates(w: World, peer: H2Attacker) -> Iterator[bytes]:
    for _ in range(FRAMES):
        yield frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1")


def _hpack_bomb(w: World, peer: H2Attacker) -> Iterator[bytes]:
    """One large header in the table, then a byte for each time that it is repeated."""
    block = peer.encoder.encode([*request(w, "vm-a"), ("x-large", "y" * 3900)])
    for stream in range(1, 400, 2):
        yield frame(HEADERS, END_HEADERS | 0x1, stream, block + b"\xbe" * 8000)
        block = peer.encoder.encode(request(w, "vm-a"))


FLOODS: tuple[Callable[[World, H2Attacker], Iterator[bytes]], ...] = (
    _resets,
    _resets_without_a_token,
    _continuations,
    _empty_continuations,
    _settings,
    _pings,
    _empty_data,
    _priorities,
    _window_updates,
    _hpack_bomb,
)


def _carelessly(flood: Iterator[bytes]) -> tuple[int, int]:
    """Requests begun, and bytes of headers held at a time, where nobody counts; a part of it will
    do."""
    decoder, begun, held, largest = Decoder(max_header_list_size=1 << 40), 0, 0, 0
    block = b""
    for one in (each for batch in islice(flood, PART) for each in _frames(batch)):
        kind, flags, payload = one[3], one[4], one[9:]
        if kind in (HEADERS, CONTINUATION):
            begun += kind == HEADERS
            block += payload
        if kind == HEADERS and flags & END_HEADERS:
            held += sum(len(name) + len(value) for name, value in decoder.decode(block, raw=True))
            block = b""
        if kind == RST_STREAM:
            held = 0
        largest = max(largest, held + len(block))
        if largest > FLOOD_MEMORY:
            break
    return begun, largest


def _frames(batch: bytes) -> Iterator[bytes]:
    while batch:
        end = 9 + int.from_bytes(batch[:3])
        yield batch[:end]
        batch = batch[end:]


def test_floods_where_nobody_counts() -> None:
    """Each reset request has begun, headers without an end are kept, and small ones grow."""

    async def scenario() -> None:
        async with world(EdgeLimits()) as w, attacker(w) as peer:
            assert _carelessly(_resets(w, peer))[0] == PART
        async with world(EdgeLimits()) as w, attacker(w) as peer:
            assert _carelessly(_continuations(w, peer))[1] > 100 * PART
        async with world(EdgeLimits()) as w, attacker(w) as peer:
            assert _carelessly(_hpack_bomb(w, peer))[1] > FLOOD_MEMORY

    asyncio.run(scenario())


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__.strip("_"))
def test_floods_of_frames(flood: Callable[[World, H2Attacker], Iterator[bytes]]) -> None:
    async def scenario() -> None:
        async with world(EdgeLimits()) as w, guest("127.0.0.27"), guest("127.0.0.28"):
            await w.edge.routes.add("vm-a", "127.0.0.27")
            await w.edge.routes.add("vm-b", "127.0.0.28")
            pid = await _worker(w)
            before = _resident(pid)
            async with _neighbour(w), attacker(w) as peer, asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(_drain(peer))
                batch: list[bytes] = []
                for one in flood(w, peer):
                    batch.append(one)
                    if len(batch) == BATCH:
                        await peer.send(*batch)
                        batch = []
                    if peer.closed or reading.done():
                        break
                await peer.send(*batch)
                reading.cancel()
                assert _resident(pid) - before < FLOOD_MEMORY
            assert await _worker(w) == pid

    asyncio.run(scenario())


async def _drain(peer: H2Attacker) -> None:
    """Until the other side closes: what it says must not fill its buffers."""
    with contextlib.suppress(OSError):
        while await peer.reader.read(65536):
            pass
