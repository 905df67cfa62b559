"""Who may speak to a node, and what it says of a process; tests/unit/cli has conversations."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from microvmd.messages.node_wire import FROM_NODE, TO_NODE
from microvmd.node.channel import Channel, dial
from microvmd.node.server import accepting, pss_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("known", [True, False])
async def test_only_the_services_user_is_answered(known: bool, tmp_path: Path) -> None:
    async def answer(channel: Channel) -> None:
        await channel.send_bytes(b"yes")

    path = tmp_path / "n.sock"
    peers = frozenset({os.getuid() + (0 if known else 1)})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        async with accepting(listener, peers, answer), asyncio.timeout(5):
            channel = await dial(path, incoming=FROM_NODE, outgoing=TO_NODE)
            assert await channel.receive() == (b"yes" if known else None)
            channel.close()


def test_memory_is_told_of_a_process_that_is_there() -> None:
    own = pss_of(os.getpid())
    assert own is not None
    assert own > 1 << 20
    assert pss_of(2**22 + 1) is None
