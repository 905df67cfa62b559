"""Ways to a guest agent: each opens a stream on which the agent takes frames.

QEMU's virtio-serial port is a UNIX socket of the node's own making. Firecracker's vsock is one
that the VMM makes, in which a guest's port is asked for by a line of text; the VMM is attacked
code, so nothing that it puts in the place of its socket is followed anywhere.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

AGENT_VSOCK_PORT = 1024
"""Where the guest agent listens (guest/src/channel.rs)."""
ANSWER_BYTES = 32
ANSWER_LIMIT = 2.0
"""Seconds until CONNECT is answered. Before 1.15 Firecracker gives a stream after a restore a port
that the guest may still know from before it, and nobody ever answers (firecracker#5688): the next
one has another port."""


class AgentAbsent(OSError):
    """Nobody listens in the guest, or not yet."""


class AgentDoor(Protocol):
    """See the module."""

    @property
    def knocks(self) -> bool:
        """Whether streams end with every snapshot, and one that ends before the agent has spoken
        says no more than `not yet`."""
        ...

    async def open(self) -> socket.socket:
        """A connected stream, not blocking. Raises OSError; AgentAbsent where `knocks`."""
        ...


@dataclass(frozen=True, slots=True)
class PortDoor:
    """A socket that is the agent's port, whether or not the agent is there yet."""

    path: Path
    knocks: bool = False

    async def open(self) -> socket.socket:
        return await connected(os.fspath(self.path))


@dataclass(frozen=True, slots=True)
class VsockDoor:
    """A socket of the VMM's. `find` gives a new descriptor of it (`pinned`)."""

    find: Callable[[], int]
    knocks: bool = True

    async def open(self) -> socket.socket:
        pin = self.find()
        try:
            stream = await connected(f"/proc/self/fd/{pin}")
        finally:
            os.close(pin)
        try:
            await _ask(stream)
        except BaseException:
            stream.close()
            raise
        return stream


def pinned(path: Path) -> int:
    """A descriptor of the socket at `path`, to be connected to as /proc/self/fd/N.

    Raises OSError when there is none, or something else in its place.
    """
    pin = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISSOCK(os.fstat(pin).st_mode):
        os.close(pin)
        raise FileNotFoundError(f"{path} is no socket")
    return pin


async def connected(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stream, path)
    except BaseException:
        stream.close()
        raise
    return stream


async def _ask(stream: socket.socket) -> None:
    """Firecracker's docs/vsock.md: `CONNECT <port>`, answered by `OK <its own port>`."""
    loop = asyncio.get_running_loop()
    answer = b""
    try:
        async with asyncio.timeout(ANSWER_LIMIT):
            await loop.sock_sendall(stream, b"CONNECT %d\n" % AGENT_VSOCK_PORT)
            while not answer.endswith(b"\n"):
                piece = await loop.sock_recv(stream, 1)
                if not piece or len(answer) > ANSWER_BYTES:
                    raise AgentAbsent("the guest agent does not listen yet")
                answer += piece
    except (ConnectionError, TimeoutError) as error:
        raise AgentAbsent("the guest agent does not listen yet") from error
    if not answer.startswith(b"OK "):
        raise AgentAbsent(f"the VMM answers {answer!r}")
