"""Ways to a guest agent: the line that asks for it, and a socket that is something else."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from microvmd.vmm import agent_door
from microvmd.vmm.agent_door import AGENT_VSOCK_PORT, AgentAbsent, PortDoor, VsockDoor, pinned

pytestmark = pytest.mark.anyio
LIMIT = 10


@contextlib.asynccontextmanager
async def vsock(path: Path, answer: bytes) -> AsyncIterator[list[bytes]]:
    """A VMM's end: reads the line, answers, and hangs up."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield asked


async def _received(stream: socket.socket) -> bytes:
    async with asyncio.timeout(LIMIT):
        return await asyncio.get_running_loop().sock_recv(stream, 100)


async def test_a_vsock_is_asked_for_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "v"
    async with vsock(path, b"OK 1073741824\nhello") as asked:
        with await VsockDoor(lambda: pinned(path)).open() as stream:
            assert await _received(stream) == b"hello"
    assert asked == [b"CONNECT %d\n" % AGENT_VSOCK_PORT]


@pytest.mark.parametrize("answer", [b"", b"O", b"NO\n", b"OK " + b"1" * 100])
async def test_an_agent_that_is_not_there_yet(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "v"
    async with vsock(path, answer):
        with pytest.raises(AgentAbsent):
            await VsockDoor(lambda: pinned(path)).open()


async def test_a_stream_that_hears_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_door, "ANSWER_LIMIT", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(os.fspath(tmp_path / "s"))
        silent.listen()
        with pytest.raises(AgentAbsent):
            await VsockDoor(lambda: pinned(tmp_path / "s")).open()


async def test_a_port_is_open_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p"
    async with vsock(path, b"x") as asked:
        with await PortDoor(path).open() as stream:
            await asyncio.get_running_loop().sock_sendall(stream, b"line\n")
            assert await _received(stream) == b"x"
    assert asked == [b"line\n"]


async def test_nothing_but_a_socket_is_pinned(tmp_path: Path) -> None:
    real, link, plain = tmp_path / "real", tmp_path / "link", tmp_path / "plain"
    link.symlink_to(real)
    plain.write_text("")
    async with vsock(real, b""):
        os.close(pinned(real))
        for path in (link, plain, tmp_path / "none"):
            with pytest.raises(OSError, match=str(path)):
                pinned(path)
