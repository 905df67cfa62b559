"""A guest's root takes the agent's port for itself and speaks to the node as it likes.

What each kind of garbage does to a node that believes it, or reads it as fast as it comes, is shown
beside it.
"""

import asyncio
import os
import socket
import struct

import pytest

from microvmd.messages import guest
from microvmd.messages.guest import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    Frame,
    FrameKind,
    FrameParser,
    json_frame,
)
from microvmd.messages.node import Died, Terminated
from microvmd.node import guest_connection
from microvmd.node.guest_connection import GuestConnection
from tests.attacklab import attacker, ended, unharmed
from tests.namelab import until
from tests.nodelab import LIMIT, NodeLab
from tests.security.test_guest_bombs import OWN_GROWTH_MIB, resident_mib

pytestmark = [pytest.mark.vm, pytest.mark.security, pytest.mark.anyio]

HUGE = Frame(FrameKind.LOG, 1, b"").encode()[:8] + b"\xff\xff\xff\x7f"
"""The head of a frame that says of itself that it has 2 GiB."""
PIECE = b"\xff" * 65536
BROKEN = "The MicroVM was ended: the guest broke the protocol: "


@pytest.mark.parametrize("defended", [False, True])
async def test_a_frame_as_long_as_it_says(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `huge` sends, to the parser alone: it would keep all that comes."""
    if not defended:
        monkeypatch.setattr(guest, "MAX_PAYLOAD", 1 << 31)
    parser = FrameParser(FrameKind.HELLO)
    assert list(parser.feed(HUGE)) == []
    for _ in range(64):
        assert list(parser.feed(PIECE)) == []
    assert (parser.violations == 0) is not defended
    assert (len(parser._buffer) > 64 * len(PIECE)) is not defended
    assert not defended or len(parser._buffer) < guest.HEADER_SIZE


@pytest.mark.parametrize("how", ["noise", "huge", "small"])
async def test_garbage_ends_the_microvm_that_speaks_it(how: str, attack_lab: NodeLab) -> None:
    """Its report is the proof that the garbage reached the node. `small` are log frames without a
    byte in them, which are no offence but a flood."""
    async with attack_lab.node() as node, attacker(node) as one, attacker(node) as other:
        before = resident_mib(os.getpid())
        async with unharmed(other):
            assert await one.does("seize", how) == "seized"
            if how == "small":
                for _ in range(20):
                    assert await one.does() == "well"
                await node.terminate(one.spec)
                assert isinstance(await ended(node), Terminated)
            else:
                report = await ended(node)
                assert isinstance(report, Died)
                assert report.reason.startswith(BROKEN)
        assert node.pid_of(one.spec) is None
        assert resident_mib(os.getpid()) - before < OWN_GROWTH_MIB


class Credulous(FrameParser):
    """Takes for a header whatever stands in the place of one."""

    def _header(self) -> tuple[FrameKind, int, int] | None:
        self.examined += 1
        number = self._buffer[3]
        known = FrameKind(number) if 1 <= number <= FrameKind.CLOSE else FrameKind.LOG
        stream, length = struct.unpack_from("<II", self._buffer, 4)
        return known, stream, length


async def test_noise_to_a_node_that_believes_it(
    attack_lab: NodeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends nothing, and keeps what comes without an end."""
    parsers: list[Credulous] = []

    def made(anchor: FrameKind, *, lost: bool = False) -> Credulous:
        parsers.append(Credulous(anchor, lost=lost))
        return parsers[-1]

    monkeypatch.setattr(guest_connection, "FrameParser", made)
    async with attack_lab.node() as node, attacker(node) as one:
        assert await one.does("seize", "noise") == "seized"
        most = HEADER_SIZE + MAX_PAYLOAD
        await until(lambda: max(len(each._buffer) for each in parsers) > 4 * most, LIMIT)
        assert node.pid_of(one.spec) is not None


@pytest.mark.parametrize("defended", [False, True])
async def test_small_frames_are_read_at_a_pace(
    defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a byte in them, as `small` sends them: counted by their bytes they would be few."""
    if not defended:
        monkeypatch.setattr(guest_connection, "FRAME_COST", 0)
    ours, theirs = socket.socketpair()
    with theirs:
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(GuestConnection, sock=ours)
        try:
            hello = {"nonce": connection._nonce, "agent": "1", "state": "booted", "exit": None}
            connection.data_received(json_frame(FrameKind.HELLO_ACK, 0, hello).encode())
            small = Frame(FrameKind.LOG, 1, b"").encode()
            connection.data_received(small * 100_000)
            assert not connection.lost.done()
            assert transport.is_reading() is not defended
        finally:
            transport.abort()
