"""The guest client against an agent that the test plays, rightly and wrongly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from microvmd.messages.guest import (
    RESYNC,
    Frame,
    FrameKind,
    FrameParser,
    json_frame,
    json_payload,
)
from microvmd.model.hooks import HookAnswer
from microvmd.node import guest_connection
from microvmd.node.guest import (
    Exit,
    GuestClient,
    GuestError,
    GuestGone,
    GuestTimeout,
    connect,
)

pytestmark = pytest.mark.anyio

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


async def test_what_an_older_conversation_left_is_dropped(tmp_path: Path) -> None:
    async def play(agent: Agent) -> None:
        stale = json_frame(FrameKind.HELLO_ACK, 0, {"nonce": "old", "agent": "0", "state": "x"})
        old_log = Frame(FrameKind.LOG, 1, b"old").encode()
        broken = Frame(FrameKind.HELLO_ACK, 0, b"{").encode()
        agent.send(b"\x01\x02tail of a frame" + stale.encode() + old_log + broken + bytes(50))
        await agent.greet(state="exited", exit={"code": 3, "signal": None})
        agent.send(Frame(FrameKind.LOG, 1, b"new").encode())

    async with playing(tmp_path, play) as path, connect(path, timeout=5) as guest:
        assert guest.hello.exit == Exit(3, None)
        assert await anext(guest.logs) == (1, b"new")
        assert await guest.exited() == Exit(3, None)


async def test_a_silent_agent_gets_padding_and_hello_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_connection, "RESYNC_AFTER", 0.01)

    async def play(agent: Agent) -> None:
        first = await agent.receive()
        second = await agent.receive()
        assert first == second
        for _ in range(2):
            answer = {**json_payload(first), "agent": "1", "state": "booted", "exit": None}
            agent.send(json_frame(FrameKind.HELLO_ACK, 0, answer).encode())
        agent.reply(await agent.receive(), {"result": {"kernel": "6.12"}})

    async with playing(tmp_path, play) as path, connect(path, timeout=5) as guest:
        assert await guest.info() == {"kernel": "6.12"}
    assert len(RESYNC) > 65536


async def test_no_answer_to_hello_is_a_timeout(tmp_path: Path) -> None:
    async def play(agent: Agent) -> None:
        await agent.receive()

    async with playing(tmp_path, play) as path:
        with pytest.raises(GuestTimeout):
            async with connect(path, timeout=0.05):
                pass
    with pytest.raises(GuestGone):
        async with connect(tmp_path / "none.sock", timeout=1):
            pass


async def test_answers_become_values(tmp_path: Path) -> None:
    async with guest_of(tmp_path, answering({"result": {"status": 503}})) as guest:
        assert await guest.hook("ready", 9000, timeout_s=1) == HookAnswer(503)
    async with guest_of(tmp_path, answering({"result": {"error": "refused"}})) as guest:
        assert await guest.hook("run", 9000, timeout_s=1) == HookAnswer(None, "refused")
    async with guest_of(tmp_path, answering({"result": {"ports": [80, 8080]}})) as guest:
        assert await guest.listening() == {80, 8080}
    refusal = {"failure": {"code": "busy", "message": "it runs"}}
    async with guest_of(tmp_path, answering(refusal)) as guest:
        with pytest.raises(GuestError, match="it runs"):
            await guest.start(["x"])


@pytest.mark.parametrize(
    "answer",
    [{}, {"result": []}, {"result": {"ports": "x"}}, {"failure": {"code": 1, "message": "x"}}],
)
async def test_malformed_answers_are_the_end_of_trust(
    tmp_path: Path, answer: dict[str, Any]
) -> None:
    async with guest_of(tmp_path, answering(answer)) as guest:
        with pytest.raises(GuestGone):
            await guest.listening()


@pytest.mark.parametrize(
    "told",
    [
        b"\xff" * 12,
        Frame(FrameKind.REQUEST, 1, b"{}"),
        Frame(FrameKind.LOG, 3, b"x"),
        Frame(FrameKind.EVENT, 0, b"["),
        Frame(FrameKind.EVENT, 0, b'{"event":"exited"}'),
        Frame(FrameKind.HELLO_ACK, 0, b'{"nonce":"other"}'),
    ],
)
async def test_a_broken_protocol_ends_the_connection(tmp_path: Path, told: Frame | bytes) -> None:
    async with guest_of(tmp_path, saying(told)) as guest:
        with pytest.raises(GuestGone, match="broke the protocol"):
            await guest.exited()
        assert [chunk async for chunk in guest.logs] == []


async def test_late_and_unknown_frames_are_no_offence(tmp_path: Path) -> None:
    play = saying(
        Frame(FrameKind.REPLY, 99, b"{}"),
        Frame(FrameKind.DATA, 99, b"late"),
        Frame(FrameKind.CLOSE, 99, b"{}"),
        json_frame(FrameKind.EVENT, 0, {"event": "exited", "code": None, "signal": 9}),
    )
    async with guest_of(tmp_path, play) as guest:
        assert await guest.exited() == Exit(None, 9)


async def test_a_request_that_is_given_up_frees_its_place(tmp_path: Path) -> None:
    async def play(agent: Agent) -> None:
        first, second = await agent.receive(), await agent.receive()
        agent.reply(first, {"result": {"late": 1}})
        agent.reply(second, {"result": {"kernel": "2"}})

    async with guest_of(tmp_path, play) as guest:
        with pytest.raises(GuestTimeout):
            await guest.request("info", limit=0.01)
        assert await guest.info() == {"kernel": "2"}


async def test_the_end_of_the_connection_reaches_everyone(tmp_path: Path) -> None:
    async def play(agent: Agent) -> None:
        await agent.receive()
        raise EOFError

    async with guest_of(tmp_path, play) as guest:
        with pytest.raises(GuestGone):
            await guest.sync()
        with pytest.raises(GuestGone):
            await guest.exec(["x"])


async def test_run_collects_output_that_comes_with_the_reply(tmp_path: Path) -> None:
    async def play(agent: Agent) -> None:
        request = await agent.receive()
        stream = request.stream
        agent.reply(request, {"result": {"pid": 5}})
        agent.send(Frame(FrameKind.DATA, stream, b"out").encode())
        agent.send(Frame(FrameKind.DATA, stream | 1 << 31, b"error").encode())
        given = b""
        while frame := await agent.receive():
            if frame.kind is FrameKind.DATA and not frame.payload:
                break
            given += frame.payload if frame.kind is FrameKind.DATA else b""
        assert given == b"input"
        end = {"code": 0, "signal": None}
        agent.send(json_frame(FrameKind.CLOSE, stream, end).encode())

    async with guest_of(tmp_path, play) as guest:
        done = await guest.run(["x"], input=b"input", user="app")
    assert (done.exit, done.stdout, done.stderr) == (Exit(0, None), b"out", b"error")


async def test_a_request_that_fits_no_frame_is_refused(tmp_path: Path) -> None:
    async with guest_of(tmp_path, saying()) as guest:
        with pytest.raises(GuestError, match="does not fit"):
            await guest.start(["x" * 70000])
