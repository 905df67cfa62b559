"""Frames over a real connection: whole ones, broken ones, and bytes within their credit."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from microvmd.messages.node_requests import SHELL_CREDIT, OpenControl, ShellTaken, Welcome
from microvmd.messages.node_wire import FROM_NODE, TO_NODE, WireError
from microvmd.node.channel import Channel, Terminal

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[Channel, socket.socket]]:
    """A node's end, and the bare other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    with theirs:
        yield Channel(reader, writer, incoming=TO_NODE, outgoing=FROM_NODE), theirs
        writer.close()
        await writer.wait_closed()


async def test_messages_both_ways_and_the_end() -> None:
    async with _pair() as (channel, other), asyncio.timeout(20):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(other, TO_NODE.encode(OpenControl()))
        assert await channel.receive() == OpenControl()
        await channel.send(Welcome())
        assert await loop.sock_recv(other, 100) == FROM_NODE.encode(Welcome())
        with pytest.raises(WireError):
            await channel.send(OpenControl())
        other.shutdown(socket.SHUT_WR)
        await channel.gone()


@pytest.mark.parametrize("length", [1, 7, 10])
async def test_half_a_frame_is_a_fault(length: int) -> None:
    async with _pair() as (channel, other), asyncio.timeout(20):
        other.send(TO_NODE.encode(OpenControl())[:length])
        other.shutdown(socket.SHUT_WR)
        with pytest.raises(WireError, match="ends within"):
            await channel.receive()


async def test_a_first_message_has_a_smaller_limit() -> None:
    async with _pair() as (channel, other), asyncio.timeout(20):
        other.send(TO_NODE.encode(OpenControl()))
        with pytest.raises(WireError, match="at most 3"):
            await channel.receive(3)


async def test_credit_is_kept_to() -> None:
    async with _pair() as (channel, other):
        terminal = Terminal(channel)
        terminal.came(bytes(SHELL_CREDIT))
        with pytest.raises(WireError, match="without credit"):
            terminal.came(b"x")
        with pytest.raises(WireError, match="more was taken"):
            terminal.took(ShellTaken(1))
        assert other.fileno() >= 0
