"""An agent that a test plays on a real socket, byte for byte, rightly or wrongly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from microvmd.messages.guest import Frame, FrameKind, FrameParser, json_frame, json_payload
from microvmd.node.guest import GuestClient, connect

Play = Callable[["Agent"], Awaitable[None]]


class Agent:
    """The other end of the port, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = FrameParser(FrameKind.HELLO)
        self._frames: list[Frame] = []

    async def receive(self) -> Frame:
        while not self._frames:
            data = await self._reader.read(65536)
            if not data:
                raise EOFError
            self._frames += self._parser.feed(data)
        return self._frames.pop(0)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def reply(self, request: Frame, answer: dict[str, Any]) -> None:
        self.send(json_frame(FrameKind.REPLY, request.stream, answer).encode())

    async def greet(self, **members: object) -> None:
        hello = await self.receive()
        answer = {"agent": "1", "state": "booted", "exit": None, **json_payload(hello), **members}
        self.send(json_frame(FrameKind.HELLO_ACK, 0, answer).encode())


@contextlib.asynccontextmanager
async def playing(directory: Path, play: Play) -> AsyncIterator[Path]:
    """A socket on which each connection is played by `play` and then kept until the end."""
    path = directory / "agent.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(EOFError):
                await play(Agent(reader, writer))
                await reader.read(-1)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield path


@contextlib.asynccontextmanager
async def guest_of(directory: Path, play: Play) -> AsyncIterator[GuestClient]:
    async def greeting(agent: Agent) -> None:
        await agent.greet()
        await play(agent)

    async with playing(directory, greeting) as path, connect(path, timeout=5) as guest:
        yield guest


def answering(answer: dict[str, Any]) -> Play:
    async def play(agent: Agent) -> None:
        agent.reply(await agent.receive(), answer)

    return play


def saying(*frames: Frame | bytes) -> Play:
    async def play(agent: Agent) -> None:
        for frame in frames:
            agent.send(frame.encode() if isinstance(frame, Frame) else frame)

    return play
