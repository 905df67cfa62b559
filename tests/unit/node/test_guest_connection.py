"""The conversation with an agent that the test plays, rightly and wrongly."""

import asyncio
import gc
import socket
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
from microvmd.node import guest_connection
from microvmd.node.guest import (
    Exit,
    GuestBroken,
    GuestError,
    GuestGone,
    GuestTimeout,
    connect,
    connect_restored,
)
from microvmd.node.guest_connection import GuestConnection
from tests.unit.node.guest_player import Agent, guest_of, playing, saying

pytestmark = pytest.mark.anyio


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
        with pytest.raises(GuestBroken, match="broke the protocol"):
            await guest.exited()
        assert [chunk async for chunk in guest.logs] == []


class Port(asyncio.Transport):
    """The node's end of a port, which tells whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = asyncio.Event()
        self.reading.set()

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def write(self, data: Any) -> None:
        """Answers the HELLO of a connection."""
        (hello,) = FrameParser(FrameKind.HELLO).feed(bytes(data))
        ack = {"agent": "1", "state": "running", "exit": None, **json_payload(hello)}
        answer = json_frame(FrameKind.HELLO_ACK, 0, ack).encode()
        asyncio.get_running_loop().call_soon(self.get_protocol().data_received, answer)

    def pause_reading(self) -> None:
        self.reading.clear()

    def resume_reading(self) -> None:
        self.reading.set()


@pytest.mark.parametrize("size", [0, 1, 65536])
async def test_what_comes_too_fast_is_not_read(size: int) -> None:
    """Before an agent has greeted, what begins like its greeting counts, and after it each frame
    does, however small."""
    begin = Frame(FrameKind.HELLO_ACK, 0, b"").encode()
    frame = begin if size == 0 else Frame(FrameKind.LOG, 1, bytes(size)).encode()
    cost = len(frame) + (guest_connection.FRAME_COST if size == 0 else 0)
    connection, port = guest_connection.GuestConnection(), Port()
    connection.connection_made(port)
    connection.data_received(frame * (guest_connection.RATE // cost - 1))
    assert port.reading.is_set()
    connection.data_received(frame * (guest_connection.RATE // 100 // cost + 2))
    assert not port.reading.is_set()
    async with asyncio.timeout(5):
        await port.reading.wait()
    connection.connection_lost(None)


async def test_log_is_read_at_a_quarter_of_the_pace() -> None:
    frame = Frame(FrameKind.LOG, 1, bytes(65536)).encode()
    connection, port = guest_connection.GuestConnection(), Port()
    port.set_protocol(connection)
    connection.connection_made(port)
    await connection.greet()
    most = guest_connection.RATE // (guest_connection.LOG_COST * len(frame)) - 1
    connection.data_received(frame * most)
    assert port.reading.is_set()
    connection.data_received(frame * 3)
    assert not port.reading.is_set()
    connection.connection_lost(None)


async def test_a_guest_that_is_made_to_wait_can_be_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_connection, "RATE", 1)
    async with guest_of(tmp_path, saying(Frame(FrameKind.LOG, 1, b"x"))) as guest:
        assert await anext(guest.logs) == (1, b"x")


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


async def test_a_request_that_fits_no_frame_is_refused(tmp_path: Path) -> None:
    async with guest_of(tmp_path, saying()) as guest:
        with pytest.raises(GuestError, match="does not fit"):
            await guest.start(["x" * 70000])


async def test_hello_and_the_first_request_go_out_together(tmp_path: Path) -> None:
    said: list[FrameKind] = []

    async def play(agent: Agent) -> None:
        hello, request = await agent.receive(), await agent.receive()
        said.extend((hello.kind, request.kind))
        ack = {"agent": "1", "state": "running", "exit": None, **json_payload(hello)}
        agent.send(json_frame(FrameKind.HELLO_ACK, 0, ack).encode())
        asked = json_payload(request)
        result = {key: asked[key] for key in ("unixNanos", "hostname", "machineId", "bootId")}
        agent.reply(request, {"result": {**result, "sample": "00"}})

    async with (
        playing(tmp_path, play) as path,
        connect_restored(path, 5, hostname="h", machine_id="m", boot_id="b") as (guest, identity),
    ):
        assert said == [FrameKind.HELLO, FrameKind.REQUEST]
        assert (identity.hostname, identity.machine_id, identity.boot_id) == ("h", "m", "b")
        assert guest.hello.state == "running"


async def test_refused_first_request_ends_the_connection(tmp_path: Path) -> None:
    async def play(agent: Agent) -> None:
        await agent.greet()
        failure = {"code": "bad_request", "message": "no"}
        agent.reply(await agent.receive(), {"failure": failure})

    async with playing(tmp_path, play) as path:
        with pytest.raises(GuestError, match="no"):
            async with connect_restored(path, 5, hostname="h", machine_id="m"):
                pass


async def test_a_stream_that_ends_before_the_greeting_leaves_no_error_behind() -> None:
    """As streams over vsock do, until the agent is there again after a restore."""
    loop, unseen = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    ours, theirs = socket.socketpair()
    transport, connection = await loop.create_unix_connection(GuestConnection, sock=ours)
    theirs.close()
    with pytest.raises(GuestGone):
        await connection.greet(("info", {}))
    transport.abort()
    del connection
    gc.collect()
    assert unseen == []
