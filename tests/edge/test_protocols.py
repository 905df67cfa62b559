"""WebSocket, HTTP/2, gRPC's trailers, streams both ways, and activity, through a real HAProxy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator

import h2.connection
import h2.events
import pytest
import websockets.exceptions

from tests.edgeguests import H2_PORT, WEBSOCKET_PORT, guest
from tests.edgelab import World, world

PORT = f"lambda-microvms.port.{WEBSOCKET_PORT}"


def test_websocket_with_the_token_in_a_header() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.12"):
            await w.edge.routes.add("vm-a", "127.0.0.12")
            headers = {**w.auth("vm-a"), "X-aws-proxy-port": str(WEBSOCKET_PORT)}
            async with w.websocket("vm-a", ["chat", "other"], headers) as socket:
                assert socket.subprotocol == "chat"
                assert "proxy" not in str(await socket.recv()).lower()
                for message in (b"\x00\xff" * 450_000, "text"):
                    await socket.send(message)
                    assert await socket.recv() == message

    asyncio.run(scenario())


def test_websocket_with_the_token_in_a_subprotocol() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.12"):
            await w.edge.routes.add("vm-a", "127.0.0.12")
            ours = ["lambda-microvms", f"lambda-microvms.authentication.{w.token('vm-a')}", PORT]
            async with w.websocket("vm-a", ours) as socket:
                assert socket.subprotocol == "lambda-microvms"
                assert "lambda" not in str(await socket.recv()).partition("host")[0]
            async with w.websocket("vm-a", [*ours, "chat"]) as socket:
                assert socket.subprotocol == "chat"
                seen = str(await socket.recv())
                assert "authentication" not in seen
                assert "chat" in seen
            without_token, without_marker = [ours[0], PORT], ours[1:]
            bad_port = [*ours[:2], "lambda-microvms.port.99999"]
            for bad in (without_token, without_marker, bad_port):
                with pytest.raises(websockets.exceptions.InvalidStatus):
                    await w.websocket("vm-a", bad).__aenter__()

    asyncio.run(scenario())


class H2Client:
    """One HTTP/2 request after the other, with trailers, which httpx does not show."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._peer = h2.connection.H2Connection()
        self._peer.initiate_connection()

    async def call(
        self, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[dict[bytes, bytes], bytes]:
        stream = self._peer.get_next_available_stream_id()
        self._peer.send_headers(stream, headers)
        self._peer.send_data(stream, body, end_stream=True)
        seen: dict[bytes, bytes] = {}
        content = b""
        while True:
            self._writer.write(self._peer.data_to_send())
            data = await self._reader.read(65536)
            assert data, "closed"
            for event in self._peer.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    seen.update((bytes(key), bytes(value)) for key, value in event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    content += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    return seen, content


@contextlib.asynccontextmanager
async def h2_client(w: World, endpoint_id: str) -> AsyncIterator[H2Client]:
    trust = w.trust
    trust.set_alpn_protocols(["h2"])
    name = f"{endpoint_id}.{w.settings.suffix}"
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", w.edge.port, ssl=trust, server_hostname=name
    )
    with contextlib.closing(writer):
        tls = writer.get_extra_info("ssl_object")
        assert isinstance(tls, ssl.SSLObject)
        assert tls.selected_alpn_protocol() == "h2"
        async with asyncio.timeout(20):
            yield H2Client(reader, writer)


@pytest.mark.parametrize("how", ["grpc", "forced"])
def test_h2c_to_the_application(how: str) -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.12"), asyncio.timeout(60):
            await w.edge.routes.add("vm-a", "127.0.0.12")
            special = {
                "grpc": ("content-type", "application/grpc+proto"),
                "forced": ("x-aws-proxy-force-h2", "true"),
            }
            headers = [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", w.edge.endpoint("vm-a")),
                (":path", "/service/Method"),
                ("x-aws-proxy-auth", w.token("vm-a")),
                ("x-aws-proxy-port", str(H2_PORT)),
                ("te", "trailers"),
                special[how],
            ]
            async with h2_client(w, "vm-a") as client:
                for body in (b"one", b"two"):
                    seen, content = await client.call(headers, body)
                    assert seen[b":status"] == b"200"
                    assert seen[b"grpc-status"] == b"0"
                    assert content == b"h2c:" + body

    asyncio.run(scenario())


def test_one_connection_for_two_endpoints_checks_each_request() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.12"), w.client(http2=True) as client:
            await w.edge.routes.add("vm-a", "127.0.0.12")
            await w.edge.routes.add("vm-b", "127.0.0.12")
            auth = w.auth("vm-a")
            assert (await w.get(client, "vm-a", "/", auth)).status_code == 200
            other = await w.get(client, "vm-a", "/", auth, host=w.edge.endpoint("vm-b"))
            assert other.status_code == 403

    asyncio.run(scenario())


@pytest.mark.parametrize("http2", [False, True])
def test_streams_are_not_buffered(http2: bool) -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.12") as app, w.client(http2=http2) as client:
            await w.edge.routes.add("vm-a", "127.0.0.12")
            url = f"https://127.0.0.1:{w.edge.port}"
            headers = {"Host": w.edge.endpoint("vm-a"), **w.auth("vm-a")}
            extensions = {"sni_hostname": f"vm-a.{w.settings.suffix}"}
            async with client.stream(
                "GET", f"{url}/stream", headers=headers, extensions=extensions
            ) as response:
                lines = response.aiter_lines()
                assert await anext(lines) == "data: 1"
                app.release.set()
                assert [line async for line in lines if line] == ["data: 2"]

            seen = asyncio.Event()

            async def upload() -> AsyncIterator[bytes]:
                yield b"first"
                await seen.wait()
                yield b"second"

            async with asyncio.TaskGroup() as group:
                request = group.create_task(
                    client.post(
                        f"{url}/upload", headers=headers, extensions=extensions, content=upload()
                    )
                )
                assert await asyncio.wait_for(app.chunks.get(), 10) == b"first"
                seen.set()
                assert await asyncio.wait_for(app.chunks.get(), 10) == b"second"
            assert request.result().status_code == 200

    asyncio.run(scenario())


def test_activity_of_an_open_websocket() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.12"):
            await w.edge.routes.add("vm-a", "127.0.0.12")
            headers = {**w.auth("vm-a"), "X-aws-proxy-port": str(WEBSOCKET_PORT)}
            async with w.websocket("vm-a", [], headers) as socket:
                await socket.recv()
                first = await w.active(lambda seen: seen.bytes_total > 0)
                assert first.connections == 1
                await socket.send(os.urandom(1000))  # nothing to compress
                await socket.recv()
                await w.active(lambda seen: seen.bytes_total >= first.bytes_total + 2000)
            closed = await w.active(lambda seen: seen.connections == 0)
            async with w.client() as client:
                await w.get(client, "vm-a", "/", {})
                await w.get(client, "vm-a", "/", w.auth("vm-b"))
            assert (await w.edge.activity())["vm-a"] == closed

    asyncio.run(scenario())
