"""One end of the service's connection to its node, on a real socket pair."""

import asyncio
import os
import socket

import pytest

from microvmd.messages.node_requests import SHELL_CREDIT, ShellTaken
from microvmd.messages.node_wire import FROM_NODE, TO_NODE, WireError
from microvmd.node.channel import Channel, Terminal

pytestmark = pytest.mark.anyio


async def pair() -> tuple[Channel, Channel]:
    """The service's end and the node's."""
    one, other = socket.socketpair(socket.AF_UNIX)
    service = await asyncio.open_unix_connection(sock=one)
    node = await asyncio.open_unix_connection(sock=other)
    return (
        Channel(*service, incoming=FROM_NODE, outgoing=TO_NODE),
        Channel(*node, incoming=TO_NODE, outgoing=FROM_NODE),
    )


async def test_bytes_arrive_and_an_end_is_none() -> None:
    service, node = await pair()
    await service.send_bytes(b"typed")
    assert await node.receive() == b"typed"
    assert node.peer == os.getuid()
    service.close()
    assert await node.receive() is None
    node.close()


async def test_whoever_should_be_silent_must_be() -> None:
    service, node = await pair()
    await service.send_bytes(b"?")
    with pytest.raises(WireError, match="nothing may come"):
        await node.gone()
    service.close()
    await node.gone()
    node.close()


async def test_a_terminal_keeps_to_its_credit() -> None:
    service, node = await pair()
    terminal = Terminal(node)
    with pytest.raises(WireError, match="more was taken"):
        terminal.took(ShellTaken(1))
    terminal = Terminal(node)
    terminal.came(bytes(SHELL_CREDIT))
    with pytest.raises(WireError, match="without credit"):
        terminal.came(b"x")
    terminal.end()
    assert await terminal.read() == bytes(SHELL_CREDIT)
    service.close()
    node.close()
