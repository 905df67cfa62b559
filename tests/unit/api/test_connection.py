"""What a connection may cost before anybody knows who is at its other end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from microvmd.api import connection
from microvmd.api.connection import HEAD_LIMIT, SOCKET_MESSAGE, Corked, configure
from microvmd.api.listener import listen

pytestmark = pytest.mark.anyio

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@dataclass
class Echo:
    """Answers with the body, or at once where the path is /early; keeps the headers."""

    headers: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] == "websocket":
            socket = WebSocket(scope, receive, send)
            await socket.accept()
            await socket.send_text(await socket.receive_text())
            await socket.close()
            return
        request = Request(scope, receive)
        body = b"early" if scope["path"] == "/early" else await request.body()
        self.headers.append(dict(request.headers))
        await Response(body or b"nothing")(scope, receive, send)


@asynccontextmanager
async def serving(app: Echo) -> AsyncIterator[int]:
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(configure(app))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]))
            yield listener.getsockname()[1]
            server.should_exit = True


async def sent(port: int, *pieces: bytes) -> bytes:
    """Everything that is answered until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_head_that_never_ends_is_refused() -> None:
    async with serving(Echo()) as port:
        # Not a byte more: what is unread when a socket closes resets the connection.
        answer = await sent(port, HEAD, (b"X: " + b"a" * HEAD_LIMIT)[: HEAD_LIMIT + 1 - len(HEAD)])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"The head of the request is too large.")


async def test_a_large_body_is_no_head() -> None:
    app = Echo()
    body = b"b" * 300_000
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n"
    async with serving(app) as port:
        answer = await sent(port, head, body)
    assert answer.endswith(body)


async def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    async with serving(Echo()) as port:
        assert await sent(port) == b""
        assert await sent(port, HEAD) == b""
        second = HEAD + b"\r\n" + HEAD
        assert (await sent(port, second)).startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_is_answered_already_does_not_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.05)
    head = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    async with serving(Echo()) as port:
        answer = await sent(port, head, b"some")
    assert answer.endswith(b"early")


async def test_trailers_are_no_headers() -> None:
    app = Echo()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(app) as port:
        answer = await sent(port, head, b"1\r\nA\r\n0\r\nX-Late: 1\r\n\r\n")
    assert answer.endswith(b"A")
    assert "x-late" not in app.headers[0]


async def test_what_follows_a_request_does_not_take_its_answer() -> None:
    async with serving(Echo()) as port:
        answer = await sent(port, HEAD + b"\r\n" + b"\0garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    last = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n"
    async with serving(Echo()) as port:
        answer = await sent(port, body + b"1" + body + b"2" + last + b"3")
    assert [part[-1:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"1", b"2", b"3"]


async def test_an_upgrade_is_not_made() -> None:
    upgrade = HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with serving(Echo()) as port:
        answer = await sent(port, upgrade.replace(b"Upgrade\r\n", b"Upgrade, close\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_pages_may_open_a_websocket() -> None:
    async with (
        serving(Echo()) as port,
        connect(f"ws://127.0.0.1:{port}/console/echo", proxy=None) as socket,
    ):
        await socket.send("hello")
        assert await socket.recv() == "hello"
        await socket.wait_closed()
        assert socket.close_code == 1000


async def test_a_message_that_is_too_large_ends_a_websocket() -> None:
    async with (
        serving(Echo()) as port,
        connect(f"ws://127.0.0.1:{port}/console/echo", proxy=None) as socket,
    ):
        await socket.send("x" * (SOCKET_MESSAGE + 1))
        with pytest.raises(ConnectionClosedError):
            await socket.recv()


async def test_elsewhere_a_websocket_is_a_request() -> None:
    async with serving(Echo()) as port:
        with pytest.raises(InvalidStatus):
            await connect(f"ws://127.0.0.1:{port}/echo", proxy=None)


class Wire(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_head_and_body_are_sent_together() -> None:
    wire = Wire()
    corked = Corked(wire, asyncio.get_running_loop())
    corked.write(b"HTTP/1.1 200 OK")
    corked.write(b"body")
    corked.write(b"more")
    assert wire.writes == [b"HTTP/1.1 200 OKbody", b"more"]
    corked.write(b"HTTP/1.1 100 Continue")
    await asyncio.sleep(0)
    assert wire.writes[2:] == [b"HTTP/1.1 100 Continue"]


async def test_what_is_held_is_sent_before_the_end() -> None:
    wire = Wire()
    corked = Corked(wire, asyncio.get_running_loop())
    corked.write(b"HTTP/1.1 400")
    corked.close()
    await asyncio.sleep(0)
    assert wire.writes == [b"HTTP/1.1 400"]
    assert corked.is_closing()
