"""Applications on loopback addresses that stand where a guest would: HTTP/1.1, h2c, WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import h2.config
import h2.connection
import h2.events
import websockets.asyncio.server
from websockets.typing import Subprotocol

from tests import lanes

HTTP_PORT = 8080
WEBSOCKET_PORT = 9100
H2_PORT = 9200
NOBODY = "127.0.0.99"
"""Where no test has a guest, whatever goes on beside it."""
HEAD_LIMIT = 1 << 20
"""Bytes of a request's head that a guest reads, more than anybody should send."""


class Guest:
    """Records what reached it, byte for byte, and answers with it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heads: list[bytes] = []
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.release = asyncio.Event()
        self.writers: set[asyncio.StreamWriter] = set()

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await self._answer(head, reader, writer)
                await writer.drain()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        path = head.split(b" ", 2)[1]
        if path == b"/stream":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
            writer.write(b"transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
            await writer.drain()
            await self.release.wait()
            writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
            return
        if b"transfer-encoding: chunked" in head.lower():
            while size := int((await reader.readline()).split(b";")[0], 16):
                self.chunks.put_nowait((await reader.readexactly(size + 2))[:-2])
            await reader.readline()
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        status = b"503 Busy" if path == b"/busy" else b"200 OK"
        body = b"" if head.startswith(b"HEAD") else head
        writer.write(b"HTTP/1.1 %b\r\nx-guest: %b\r\n" % (status, self.address.encode()))
        writer.write(b"content-length: %d\r\n\r\n%b" % (len(head), body))


async def _websocket(connection: websockets.asyncio.server.ServerConnection) -> None:
    headers = connection.request.headers if connection.request else {}
    await connection.send(str(headers))
    async for message in connection:
        await connection.send(message)


async def _h2c(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each HTTP/2 request with its body and a trailer, as gRPC servers do."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    peer.initiate_connection()
    writer.write(peer.data_to_send())
    bodies: dict[int, bytes] = {}
    with contextlib.suppress(OSError), contextlib.closing(writer):
        while data := await reader.read(65536):
            for event in peer.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    content = ("content-type", "application/grpc")
                    peer.send_headers(event.stream_id, [(":status", "200"), content])
                    peer.send_data(event.stream_id, b"h2c:" + bodies.pop(event.stream_id))
                    peer.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            writer.write(peer.data_to_send())
            await writer.drain()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def guest(address: str) -> AsyncIterator[Guest]:
    """A guest that listens on 8080 (HTTP), 9100 (WebSocket) and 9200 (h2c)."""
    async with _alone(address), _listening(address) as made:
        yield made


@contextlib.asynccontextmanager
async def plain_guest(address: str, handler: Handler) -> AsyncIterator[None]:
    """A guest with nothing but this on 8080."""
    async with _alone(address), await asyncio.start_server(handler, address, HTTP_PORT):
        yield


def _alone(address: str) -> contextlib.AbstractAsyncContextManager[None]:
    """Ports and addresses are what they are: another run on this machine waits."""
    return lanes.alone(f"guest-{address}")


@contextlib.asynccontextmanager
async def _listening(address: str) -> AsyncIterator[Guest]:
    made = Guest(address)
    subprotocols = [Subprotocol("chat")]
    http = await asyncio.start_server(made.http, address, HTTP_PORT, limit=HEAD_LIMIT)
    h2c = await asyncio.start_server(_h2c, address, H2_PORT)
    async with websockets.asyncio.server.serve(
        _websocket,
        address,
        WEBSOCKET_PORT,
        subprotocols=subprotocols,
        select_subprotocol=lambda _, offered: "chat" if "chat" in offered else None,  # type: ignore[arg-type,return-value]
    ):
        try:
            yield made
        finally:
            made.release.set()
            http.close()
            h2c.close()
            for writer in made.writers:
                writer.transport.abort()
