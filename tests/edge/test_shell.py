"""Shells at an endpoint as recorded: a real HAProxy, a real WebSocket client, a real terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator

import h2.connection
import h2.events
import pytest
import websockets.exceptions
from websockets.asyncio.client import ClientConnection

from microvmd.edge.resolve import Forward, Refuse
from microvmd.messages.shell import ShellEnd
from tests.edgeguests import guest
from tests.edgelab import World, running, world

MARK = "lambda-microvms"
LIMIT = 20.0
# What a window, pipes and sockets between here and the terminal may hold at the most.
BUFFERS = 32 * 1024 * 1024


def protocols(w: World, *more: str, endpoint: str = "vm-a") -> list[str]:
    token = w.token(endpoint, scope="shell")
    return [MARK, f"{MARK}.authentication.{token}", *more]


def runs(w: World, endpoint: str = "vm-a") -> None:
    """The control plane says that the MicroVM is RUNNING."""
    w.hold(endpoint).set_result(Forward("127.0.0.16"))


@contextlib.asynccontextmanager
async def connected(
    w: World,
    path: str = "/",
    *,
    offered: list[str] | None = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[ClientConnection]:
    """A session that has begun."""
    async with (
        asyncio.timeout(60),
        w.websocket("vm-a", offered or protocols(w), headers, path=path) as socket,
    ):
        first = await asyncio.wait_for(socket.recv(), LIMIT)
        assert isinstance(first, str)
        assert first.startswith('{"type":"session_init","session_id":"')
        uuid.UUID(json.loads(first)["session_id"])
        yield socket


async def says(socket: ClientConnection, text: str) -> str:
    wanted, seen, looked = text.encode(), bytearray(), 0
    async with asyncio.timeout(LIMIT):
        # Megabytes may come first: only what is new is searched.
        while seen.find(wanted, looked) < 0:
            looked = max(0, len(seen) - len(wanted))
            data = await socket.recv()
            assert isinstance(data, bytes)
            seen += data
    return seen.decode()


async def closes(socket: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the session ends."""
    async with asyncio.timeout(LIMIT):
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            while True:
                await socket.recv()
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/", ()),
        ("/shell", (f"{MARK}.port.8022",)),
        ("/aws/lambda-microvms/runtime/v1/shell", (f"{MARK}.port.22", "of-the-clients-own")),
    ],
)
def test_a_session_from_begin_to_end(path: str, more: tuple[str, ...]) -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            async with connected(w, path, offered=protocols(w, *more)) as socket:
                assert socket.subprotocol == MARK
                assert socket.response is not None
                assert socket.response.headers["x-amzn-requestid"]
                assert "server" not in socket.response.headers
                await says(socket, "$ ")
                await socket.send(b"stty size; tty >/dev/null && echo on a terminal\n")
                await says(socket, "0 0\r\non a terminal\r\n")
                await socket.send('{"type":"resize","cols":120,"rows":40}')
                await socket.send("stty size\n")  # text is typed too
                await says(socket, "40 120\r\n")
                await socket.send('{"type":"unknown"}')
                await says(socket, '{"type":"unknown"}')
                await socket.send(b"\x15bash -c 'echo asleep; exec sleep 1000'\n")
                await says(socket, "asleep\r\n")
                await socket.send(b"\x03")
                await socket.send(b"echo left with $?\n")
                await says(socket, "left with 130\r\n")
                await socket.send(b"exit 7\n")
                assert await closes(socket) == (1000, "shell exited")

    asyncio.run(scenario())


def test_the_token_may_come_in_a_header() -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            headers = {"X-aws-proxy-auth": w.token("vm-a", scope="shell")}
            async with w.websocket("vm-a", [], headers) as socket:
                assert socket.subprotocol is None
                assert "session_init" in str(await asyncio.wait_for(socket.recv(), LIMIT))

    asyncio.run(scenario())


def test_a_browser_with_http2_gets_a_shell_too() -> None:
    """Extended CONNECT (RFC 8441), which a browser prefers where HTTP/2 is spoken."""

    async def scenario() -> None:
        async with world() as w, asyncio.timeout(LIMIT):
            runs(w)
            trust = w.trust
            trust.set_alpn_protocols(["h2"])
            name = f"vm-a.{w.settings.suffix}"
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", w.edge.port, ssl=trust, server_hostname=name
            )
            with contextlib.closing(writer):
                peer = h2.connection.H2Connection()
                peer.initiate_connection()
                peer.send_headers(
                    1,
                    [
                        (":method", "CONNECT"),
                        (":protocol", "websocket"),
                        (":scheme", "https"),
                        (":authority", w.edge.endpoint("vm-a")),
                        (":path", "/shell"),
                        ("sec-websocket-version", "13"),
                        ("sec-websocket-protocol", ", ".join(protocols(w))),
                    ],
                )
                headers: dict[bytes, bytes] = {}
                content = b""
                while b"session_init" not in content:
                    writer.write(peer.data_to_send())
                    data = await reader.read(65536)
                    assert data, headers
                    for event in peer.receive_data(data):
                        if isinstance(event, h2.events.ResponseReceived):
                            headers.update(event.headers)
                        elif isinstance(event, h2.events.DataReceived):
                            content += event.data
                assert headers[b":status"] == b"200"
                assert headers[b"sec-websocket-protocol"] == MARK.encode()
                assert content.startswith(b"\x81")  # one text frame

    asyncio.run(scenario())


def test_a_session_outlives_its_token() -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            short = w.token("vm-a", scope="shell", seconds=1.5)
            async with connected(w, offered=[MARK, f"{MARK}.authentication.{short}"]) as socket:
                again = [MARK, f"{MARK}.authentication.{short}"]
                async with asyncio.timeout(LIMIT):
                    while True:
                        try:
                            async with w.websocket("vm-a", again):
                                pass
                        except websockets.exceptions.InvalidStatus as refused:
                            if refused.response.status_code == 403:
                                break
                await socket.send(b"echo still $((1 + 1))\n")
                await says(socket, "still 2\r\n")

    asyncio.run(scenario())


def test_each_token_opens_its_own_door_only() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.16") as app, w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.16")
            runs(w)
            shell = {"X-aws-proxy-auth": w.token("vm-a", scope="shell")}
            plain = await w.get(client, "vm-a", "/shell", shell)
            assert (plain.status_code, plain.text) == (502, "")
            forged = {**shell, "x-microvmd-endpoint": "vm-b", "connection": "upgrade"}
            plain = await w.get(client, "vm-a", "/shell", {**forged, "upgrade": "h2c"})
            assert (plain.status_code, plain.text) == (502, "")
            # A WebSocket with an auth token is the application's, on whatever path and port.
            for path, port in (("/shell", "8022"), ("/", "8080")):
                offered = [
                    MARK,
                    f"{MARK}.authentication.{w.token('vm-a')}",
                    f"{MARK}.port.{port}",
                ]
                with pytest.raises(websockets.exceptions.InvalidStatus):
                    await w.websocket("vm-a", offered, path=path).__aenter__()
            assert w.shells.empty()
            assert len(app.heads) == 1  # the one to port 8080
            # Of another MicroVM, expired, to an invalid port.
            expired = w.token("vm-a", seconds=-5, scope="shell")
            for bad, status in (
                (protocols(w, endpoint="vm-b"), 403),
                ([MARK, f"{MARK}.authentication.{expired}"], 403),
                (protocols(w, f"{MARK}.port.99999"), 400),
            ):
                with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                    await w.websocket("vm-a", bad).__aenter__()
                assert refused.value.response.status_code == status
            # The endpoint is the token's, never what a client says.
            runs(w, "vm-b")
            headers = {"x-microvmd-endpoint": "vm-b"}
            while not w.asked.empty():
                w.asked.get_nowait()
            async with connected(w, headers=headers):
                assert w.asked.get_nowait() == "vm-a"
                assert w.asked.empty()

    asyncio.run(scenario())


def test_a_connect_is_held_while_the_microvm_resumes() -> None:
    async def scenario() -> None:
        async with world() as w, asyncio.TaskGroup() as group:
            answer = w.hold("vm-a")

            async def use() -> None:
                async with connected(w) as socket:
                    await says(socket, "$ ")

            session = group.create_task(use())
            assert await asyncio.wait_for(w.asked.get(), LIMIT) == "vm-a"
            assert not session.done()
            answer.set_result(Forward("127.0.0.16"))
            await session

            # Who hangs up meanwhile waits for nothing any more.
            w.hold("vm-a")
            session = group.create_task(use())
            assert await asyncio.wait_for(w.asked.get(), LIMIT) == "vm-a"
            session.cancel()
            assert await asyncio.wait_for(w.cancelled.get(), LIMIT) == "vm-a"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [Refuse(502), Refuse(403, "Token authentication failed")],
    ids=["suspended for good", "no such endpoint"],
)
def test_refusals(answer: Refuse) -> None:
    async def scenario() -> None:
        async with world() as w:
            w.hold("vm-a").set_result(answer)
            with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                await w.websocket("vm-a", protocols(w)).__aenter__()
            assert refused.value.response.status_code == answer.status
            assert refused.value.response.body == answer.body.encode()
            assert w.shells.empty()

    asyncio.run(scenario())


def test_without_the_service_there_are_no_shells() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.16"):
            async with running(w, stop=False):
                pass
            await w.edge.routes.add("vm-a", "127.0.0.16")
            with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                await w.websocket("vm-a", protocols(w)).__aenter__()
            assert refused.value.response.status_code == 502
            assert refused.value.response.body == b""
            async with w.client() as client:
                assert (await w.get(client, "vm-a", "/", w.auth("vm-a"))).status_code == 200
            runs(w)
            async with running(w, stop=False), connected(w) as socket:
                await says(socket, "$ ")

    asyncio.run(scenario())


def test_so_many_sessions_and_no_more() -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            async with connected(w) as one, connected(w) as two:
                with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                    await w.websocket("vm-a", protocols(w)).__aenter__()
                assert refused.value.response.status_code == 429
                for socket, word in ((one, "first"), (two, "second")):
                    await socket.send(f"echo I am the $((1)) {word}\n")
                    await says(socket, f"I am the 1 {word}\r\n")
            # Both places are free again, as soon as the closes have been noticed.
            async with asyncio.timeout(LIMIT):
                while True:
                    with contextlib.suppress(websockets.exceptions.InvalidStatus):
                        async with connected(w) as socket:
                            await says(socket, "$ ")
                            return

    asyncio.run(scenario())


def test_those_that_wait_for_a_resume_count() -> None:
    """Each is a connection of the service: a MicroVM that resumes slowly must not take them all."""

    async def scenario() -> None:
        async with world() as w, asyncio.timeout(LIMIT):
            held = w.hold("vm-a")

            async def use() -> int:
                try:
                    async with connected(w) as socket:
                        await says(socket, "$ ")
                        return 101
                except websockets.exceptions.InvalidStatus as refused:
                    return refused.response.status_code

            async with asyncio.TaskGroup() as group:
                asked = {group.create_task(use()) for _ in range(3)}
                first, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                assert [one.result() for one in first] == [429]
                held.set_result(Forward("127.0.0.16"))
            assert [one.result() for one in others] == [101, 101]

    asyncio.run(scenario())


@pytest.mark.parametrize("why", [ShellEnd.SUSPENDED, ShellEnd.TERMINATED])
def test_the_end_of_the_microvm_is_told(why: ShellEnd) -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            async with connected(w) as socket:
                (await w.shells.get()).end(why)
                assert await closes(socket) == (1001, why.value)

    asyncio.run(scenario())


def test_the_end_of_the_service_is_told() -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            async with contextlib.AsyncExitStack() as stack:
                async with running(w, stop=False):
                    socket = await stack.enter_async_context(connected(w))
                assert await closes(socket) == (1001, "service stopping")

    asyncio.run(scenario())


def test_a_flood_waits_for_a_slow_client() -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            async with connected(w) as socket:
                shell = await w.shells.get()
                await socket.send(b"yes\n")
                await says(socket, "y\r\ny\r\n")
                # Nobody reads here any more: the terminal's reader must come to a stop.
                before = -1
                async with asyncio.timeout(LIMIT):
                    while shell.taken != before:
                        before = shell.taken
                        await asyncio.sleep(0.5)
                assert shell.taken < BUFFERS
                await socket.send(b"\x03")
                await socket.send(b"echo over $((1 + 1))\n")
                await says(socket, "over 2\r\n")
                # A client that reads nothing at all does not outlive its MicroVM either.
                await socket.send(b"yes\n")
                shell.end(ShellEnd.SUSPENDED)
                assert await closes(socket) == (1001, ShellEnd.SUSPENDED.value)

    asyncio.run(scenario())


def test_oversized_and_broken_frames_end_the_session() -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            async with connected(w) as socket:
                await socket.send(bytes(300_000))
                assert (await closes(socket))[0] == 1009
            async with connected(w) as socket:
                socket.transport.write(b"\xff" * 100)  # reserved bits, no mask, no such opcode
                assert (await closes(socket))[0] in (1002, 1006)

    asyncio.run(scenario())


def test_a_session_is_activity_and_silence_is_not() -> None:
    async def scenario() -> None:
        async with world() as w:
            runs(w)
            async with connected(w) as socket:
                await says(socket, "$ ")
                await socket.send(b"head -c 5000 /dev/zero | tr '\\0' x; echo over\n")
                await says(socket, "over\r\n")
                seen = await w.active(lambda seen: seen.bytes_total >= 5000)
                assert seen.connections == 1
                # HAProxy adds up every five seconds: two of them, in which nothing may come.
                await asyncio.sleep(11)
                assert (await w.edge.activity())["vm-a"].bytes_total - seen.bytes_total < 200

    asyncio.run(scenario())
