"""Connections to the API that say too much, too little, or two things at once.

Over real sockets. Each is shown to do harm without the limit that stops it, or to another server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import httpx
import pytest

from microvmd.api import connection
from tests.clients.live import LiveApi, live_api
from tests.clients.raw import send

pytestmark = pytest.mark.security

MICROVMS = "/2025-09-09/microvms"
MANY = 400
"""Connections at once, each with a descriptor on either side in this process."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("attacked")) as found:
        yield found


HEALTHY = b'"status":"ok"'
SMUGGLED = (
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: 0\r\nContent-Length: 30\r\n\r\n",
    b"Content-Length: +0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
)


@pytest.mark.parametrize("body", SMUGGLED)
def test_two_requests_in_one(api: LiveApi, body: bytes) -> None:
    """Nobody stands before the API by default; whoever does must not be led astray by it. After a
    request that is one to every parser, the same second one is answered."""
    health = f"GET /microvmd/v1/health HTTP/1.1\r\nHost: {urlsplit(api.url).netloc}\r\n".encode()
    second = health + b"Connection: close\r\n\r\n"
    assert _told(api, health + b"\r\n" + second).count(HEALTHY) == 2
    begun = b"POST /2025-09-09/microvms HTTP/1.1\r\nHost: a\r\n"
    assert HEALTHY not in _told(api, begun + body + second)


def _told(api: LiveApi, content: bytes) -> bytes:
    """All that comes back on one connection until it is closed, without blanks."""
    answer = b""
    made = socket.create_connection(_place(api), timeout=5)
    with made as connection, contextlib.suppress(OSError):
        connection.sendall(content)
        while data := connection.recv(65536):
            answer += data
    return answer.replace(b" ", b"")


def _place(api: LiveApi) -> tuple[str, int]:
    split = urlsplit(api.url)
    assert split.hostname is not None
    assert split.port is not None
    return split.hostname, split.port


BEGUN = {
    "silent": b"",
    "one byte": b"G",
    "half a head": b"GET /2025-09-09/microvms HTTP/1.1\r\nHost: a\r\nX: ",
    "half a body": (
        b"POST /2025-09-09/microvms HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{"
    ),
}


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_one_of_them_holds_up_a_server_that_waits_for_each(begun: bytes) -> None:
    class Patient(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))

        def log_message(self, format: str, *args: object) -> None:
            """Not into the output of the tests."""

    with HTTPServer(("127.0.0.1", 0), Patient) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with httpx.Client(timeout=30, trust_env=False) as client:
            assert client.get(url).status_code == 200
            with socket.create_connection(("127.0.0.1", server.server_port)) as slow:
                slow.sendall(begun)
                with pytest.raises(httpx.ReadTimeout):
                    client.get(url, timeout=0.3)
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_many_connections_that_do_not_go_on(api: LiveApi, begun: bytes) -> None:
    """All others are answered meanwhile, and nothing is kept of them afterwards."""
    before = len(os.listdir("/proc/self/fd"))

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MANY):
                _, writer = await asyncio.open_connection(*_place(api))
                stack.callback(writer.transport.abort)
                writer.write(begun)
            for _ in range(5):
                answer = await asyncio.to_thread(send, api, "GET", MICROVMS)
                assert answer.status == 200

    asyncio.run(scenario())
    limit = datetime.now(UTC) + timedelta(seconds=30)
    while len(os.listdir("/proc/self/fd")) > before + 5:
        assert datetime.now(UTC) < limit, "connections stay open"


HEADS = {
    "many headers": "".join(f"X-{number}: {'y' * 60}\r\n" for number in range(20_000)),
    "one long header": f"X: {'y' * (1 << 20)}\r\n",
    "many lines of one header": "X: y\r\n" * 200_000,
}
"""A megabyte each."""


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("defended", [False, True])
def test_heads_that_do_not_end(
    api: LiveApi, defended: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the limit a caller of whom nothing is known yet has kept all of it with us: it is
    answered when it comes to an end after all."""
    if not defended:
        monkeypatch.setattr(connection, "HEAD_LIMIT", 1 << 30)
    head = f"GET /microvmd/v1/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{HEADS[name]}\r\n"
    told = _told(api, head.encode())
    assert (HEALTHY in told) is not defended
    assert send(api, "GET", MICROVMS).status == 200
