"""Floods of HTTP/2 frames from one connection: others go on, and HAProxy keeps next to nothing.

Who sends them never reads what is answered. A server of a library whose limits are off is shown to
keep more of the same frames than HAProxy may take for all of them.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import h2.frame_buffer
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived, WindowUpdated
from hyperframe.frame import DataFrame

from microvmd.edge.config import EdgeLimits
from tests.edgeguests import guest
from tests.edgelab import World, world
from tests.edgeneighbour import answered, neighbour, resident, worker
from tests.h2frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Fields,
    H2Attacker,
    attacker,
    frame,
    request,
    settings,
)

pytestmark = [pytest.mark.security, pytest.mark.timeout(600)]

FRAMES = 100_000
BATCH = 500
PARTS = 50
"""One of so many parts of a flood shows what a server that is careless keeps of each frame."""
LITTLE = 8 << 20
"""Bytes: what the neighbour's connections leave in HAProxy is a small part of it."""
REQUESTS = 32 << 20
"""Where there are requests: HAProxy has 128 of a connection at a time, with two buffers each."""
CRUMBS = 5000
"""Bytes of an answer."""


def _reset(peer: H2Attacker, fields: Fields) -> Iterator[bytes]:
    for stream in range(1, 2 * FRAMES, 2):
        yield peer.headers(stream, fields) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")


def _resets(w: World, peer: H2Attacker) -> Iterator[bytes]:
    return _reset(peer, request(w, "vm-a"))


def _resets_without_a_token(w: World, peer: H2Attacker) -> Iterator[bytes]:
    return _reset(peer, request(w, "vm-a")[:4])


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


def _hpack_bomb(w: World, peer: H2Attacker) -> Iterator[bytes]:
    """One large header in the table, then a byte for each time that it is repeated."""
    block = peer.encoder.encode([*request(w, "vm-a"), ("x-large", "y" * 3900)])
    for stream in range(1, 400, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, block + b"\xbe" * 8000)
        block = peer.encoder.encode(request(w, "vm-a"))


@dataclass(frozen=True)
class Flood:
    frames: Callable[[World, H2Attacker], Iterator[bytes]]
    count: int = FRAMES
    most: int = LITTLE
    """Bytes that HAProxy may take for it."""

    def __str__(self) -> str:
        return self.frames.__name__.strip("_")


FLOODS = (
    Flood(_resets, most=REQUESTS),
    Flood(_resets_without_a_token, most=REQUESTS),
    Flood(_continuations),
    Flood(_empty_continuations),
    Flood(_settings),
    Flood(_pings),
    Flood(_empty_data),
    Flood(_priorities),
    Flood(_hpack_bomb, 200),
)
each_flood = pytest.mark.parametrize("flood", FLOODS, ids=str)


class Careless:
    """An HTTP/2 server that leaves to its application what it is sent, and whose client reads
    nothing of what it answers."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(h2.frame_buffer, "CONTINUATION_BACKLOG", 1 << 40)
        config = H2Configuration(
            client_side=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
        )
        self.connection = H2Connection(config)
        self.connection.decoder.max_header_list_size = 1 << 40
        self.left: list[Event] = list(self.connection.receive_data(PREFACE + settings()))

    def take(self, content: bytes) -> list[Event]:
        found = self.connection.receive_data(content)
        self.left += found
        return found


@each_flood
def test_a_flood_where_nobody_counts(flood: Flood, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> list[bytes]:
        async with world(EdgeLimits()) as w, attacker(w) as peer:
            return list(islice(flood.frames(w, peer), flood.count // PARTS))

    part, careless = asyncio.run(scenario()), Careless(monkeypatch)
    tracemalloc.start()
    try:
        for one in part:
            careless.take(one)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held * PARTS > flood.most


@each_flood
def test_floods_of_frames(flood: Flood) -> None:
    async def scenario() -> None:
        async with world(EdgeLimits()) as w, guest("127.0.0.27"), guest("127.0.0.28"):
            await w.edge.routes.add("vm-a", "127.0.0.27")
            await w.edge.routes.add("vm-b", "127.0.0.28")
            pid = await worker(w)
            async with neighbour(w) as statuses, attacker(w) as peer:
                await answered(statuses)
                before = resident(pid)
                frames = flood.frames(w, peer)
                while not peer.over and (batch := list(islice(frames, BATCH))):
                    peer.writer.writelines(batch)
                    await asyncio.sleep(0)
                left = -1
                while not peer.over and (now := _unread(w, peer)) != left:
                    left = now
                    await answered(statuses)
                assert resident(pid) - before < flood.most
            assert await worker(w) == pid

    asyncio.run(scenario())


def _unread(w: World, peer: H2Attacker) -> int:
    """Bytes of a connection that HAProxy has yet to read."""
    mine, theirs = peer.port, w.edge.port
    found = peer.writer.transport.get_write_buffer_size()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, _, queues = line.split()[1:5]
        sent, received = (int(queue, 16) for queue in queues.split(":"))
        ends = int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)
        found += sent if ends == (mine, theirs) else received if ends == (theirs, mine) else 0
    return found


def _crumbs(w: World, peer: H2Attacker) -> Iterator[bytes]:
    """Asks for an answer, and lets it come by a byte at a time."""
    yield settings(_4=0)
    yield peer.headers(1, request(w, "vm-a", ("x-long", "~" * CRUMBS)))
    for _ in range(CRUMBS):
        yield frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")


def test_an_answer_by_the_byte_where_each_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> list[bytes]:
        async with world() as w, attacker(w) as peer:
            return list(_crumbs(w, peer))

    careless = Careless(monkeypatch)
    for one in asyncio.run(scenario()):
        for event in careless.take(one):
            if isinstance(event, RequestReceived):
                careless.connection.send_headers(1, [(":status", "200")])
                careless.connection.data_to_send()
            elif isinstance(event, WindowUpdated):
                careless.connection.send_data(1, b"x")
    assert len(careless.connection.data_to_send()) == CRUMBS * 10


def test_an_answer_by_the_byte() -> None:
    """What a client lets come meanwhile comes together."""

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.27"), attacker(w) as peer:
            await w.edge.routes.add("vm-a", "127.0.0.27")
            frames = _crumbs(w, peer)
            while batch := list(islice(frames, BATCH)):
                await peer.send(*batch)
            came: list[int] = []
            while sum(came) < CRUMBS:
                (one,) = await peer.frames(1)
                came += [len(one.data)] if isinstance(one, DataFrame) else []
            assert len(came) < CRUMBS / 10

    asyncio.run(scenario())
