"""A guest's root takes the agent's port for itself and speaks to the node as it likes."""

import os

import pytest

from microvmd.messages import guest
from microvmd.messages.guest import Frame, FrameKind, FrameParser
from microvmd.messages.node import Died, Terminated
from tests.attacklab import attacker, ended, unharmed
from tests.nodelab import NodeLab
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
