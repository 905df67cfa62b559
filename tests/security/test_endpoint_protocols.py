"""Requests that two parsers read differently, over HTTP/1.1 and HTTP/2, against a real HAProxy.

What is attacked is the border between requests and between MicroVMs. A proxy that looks at the
first request of a connection and then copies bytes is shown to lose to the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hpack import Decoder
from hyperframe.frame import HeadersFrame

from microvmd.control.tokens import InvalidToken
from tests.edgeguests import HTTP_PORT, Guest, guest, plain_guest
from tests.edgelab import World, world
from tests.edgeweak import weakened, without
from tests.h2frames import Fields, attacker, replaced, request

pytestmark = pytest.mark.security

SECOND = "GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
START = "POST /probe HTTP/1.1\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\n"
# What follows the request line, Host and token: headers, an empty line, and a body.
SMUGGLED = {
    "chunked and a length": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "chunked twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked, identity": "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity, chunked": "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "chunked in quotes": 'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked after a vertical tab": "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked with a null": "Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
    "chunked folded": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "chunked by a bare line feed": "X: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked by a bare return": "X: 1\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "name with a tab": "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "name with a null": "Transfer\x00-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "length with a plus": "Content-Length: +0\r\n\r\n",
    "length in hex": "Content-Length: 0x0\r\n\r\n",
    "length of two numbers": "Content-Length: 0, 44\r\n\r\n",
    "length that is negative": "Content-Length: -1\r\n\r\n",
    "length that overflows": "Content-Length: 18446744073709551616\r\n\r\n",
    "length with a space in it": "Content-Length: 0 0\r\n\r\n",
    "length and a second one": "Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "chunk size that overflows": "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff1\r\n",
    "chunk size that is negative": "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "chunk size with a prefix": "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "chunk that ends without its line": "Transfer-Encoding: chunked\r\n\r\n1\r\naX0\r\n\r\n",
    "chunk extension with a line feed": "Transfer-Encoding: chunked\r\n\r\n0;a\n\r\n\r\n",
    "trailer that begins a request": "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
}
STATUSES = {b"200", b"400", b"403", b"408", b"422", b"501"}
LINES = {
    "no version": "GET /probe",
    "version with letters": "GET /probe HTTP/a.b",
    "version of another protocol": "GET /probe RTSP/1.0",
    "three versions": "GET /probe HTTP/1.1 HTTP/1.1",
    "CONNECT to another": "CONNECT {other} HTTP/1.1",
    "CONNECT to a port of the host": "CONNECT 127.0.0.1:22 HTTP/1.1",
    "PRI": "PRI * HTTP/2.0",
    "a space in the path": "GET /probe /x HTTP/1.1",
    "a null in the path": "GET /probe\x00 HTTP/1.1",
    "a method with a colon": "GET: /probe HTTP/1.1",
    "a fragment": "GET /probe#@{other}/ HTTP/1.1",
}


@contextlib.asynccontextmanager
async def _two(w: World) -> AsyncIterator[tuple[Guest, Guest]]:
    async with guest("127.0.0.25") as app, guest("127.0.0.26") as other:
        await w.edge.routes.add("vm-a", "127.0.0.25")
        await w.edge.routes.add("vm-b", "127.0.0.26")
        yield app, other


def _filled(w: World, text: str) -> bytes:
    return text.format(
        host=w.edge.endpoint("vm-a"), other=w.edge.endpoint("vm-b"), token=w.token("vm-a")
    ).encode("latin-1")


def _proved(app: Guest) -> list[bytes]:
    """Request lines that the application saw."""
    return [head.split(b"\r\n")[0] for head in app.heads]


@pytest.mark.parametrize("name", SMUGGLED)
def test_smuggled(name: str) -> None:
    """A second request, without a token, in what may be the body of the first or not."""

    async def scenario() -> None:
        async with world() as w, _two(w) as (app, other):
            answer = await w.raw("vm-a", _filled(w, START + SMUGGLED[name] + SECOND), patience=1)
            statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
            assert set(statuses) <= STATUSES, answer
            assert not any(b"/smuggled" in line for line in _proved(app)), answer
            assert statuses.count(b"200") <= len(app.heads) <= 1
            assert other.heads == []

    asyncio.run(scenario())


async def _naive(
    w: World, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str
) -> None:
    """Checks the token of the first request as its last line says it, then copies bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    token = head.lower().rpartition(b"x-aws-proxy-auth: ")[2].partition(b"\r\n")[0]
    token = head[head.lower().index(token) :][: len(token)]
    with contextlib.closing(writer), contextlib.suppress(InvalidToken):
        w.issuer.verify(token.decode())
        rest = await reader.read(65536)
        there, back = await asyncio.open_connection(address, HTTP_PORT)
        with contextlib.closing(back):
            back.write(head + rest)
            await back.drain()
            back.write_eof()
            writer.write(await there.read())


async def _copied(w: World, content: bytes, address: str) -> None:
    """Send it through such a proxy, until the other side has seen its end."""
    server = await asyncio.start_server(lambda r, s: _naive(w, r, s, address), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with contextlib.closing(writer):
            writer.write(content)
            writer.write_eof()
            await reader.read()


@pytest.mark.parametrize("body", ["Content-Length: 0\r\n\r\n", "X: 1\r\n\r\n"])
def test_smuggled_through_a_proxy_that_copies(body: str) -> None:
    """So the tests above can fail: the same second request arrives."""

    async def scenario() -> None:
        async with world() as w, _two(w) as (app, _):
            await _copied(w, _filled(w, START + body + SECOND), "127.0.0.25")
            assert any(b"/smuggled" in line for line in _proved(app))

    asyncio.run(scenario())


def test_a_proxy_that_copies_leaves_all_of_them_to_the_application() -> None:
    """Whose parser then decides what is a request: each of the texts comes to it as it is."""
    got: list[bytes] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read())
        writer.close()

    async def scenario() -> None:
        tail = "\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\n\r\n"
        lines = [line + tail for line in LINES.values()]
        bodies = [START + body + SECOND for body in SMUGGLED.values()]
        async with world() as w, plain_guest("127.0.0.25", keep):
            for text in (*bodies, *lines):
                content = _filled(w, text)
                await _copied(w, content, "127.0.0.25")
                assert got.pop() == content

    asyncio.run(scenario())


@pytest.mark.parametrize("name", LINES)
def test_request_lines(name: str) -> None:
    async def scenario() -> None:
        async with world() as w, _two(w) as (app, other):
            tail = "\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\nConnection: close\r\n\r\n"
            answer = await w.raw("vm-a", _filled(w, LINES[name] + tail), patience=1)
            assert not answer or answer.split(b" ")[1] in (b"400", b"403", b"502", b"505"), answer
            assert app.heads == []
            assert other.heads == []

    asyncio.run(scenario())


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.7"])
def test_versions_that_are_none_of_http1(version: str) -> None:
    """Refused, or one request like any other: the application is told 1.0 or 1.1."""

    async def scenario() -> None:
        async with world() as w, _two(w) as (app, _):
            tail = "\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\nConnection: close\r\n\r\n"
            text = _filled(w, f"GET /probe HTTP/{version}{tail}")
            answer = await w.raw("vm-a", text + _filled(w, SECOND), patience=1)
            assert set(_proved(app)) <= {b"GET /probe HTTP/1.0", b"GET /probe HTTP/1.1"}
            assert answer.count(b"HTTP/1.1 200") == len(app.heads) <= 1

    asyncio.run(scenario())


def test_http_09_would_be_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    weakened(monkeypatch, without("400 unless { req.ver"))

    async def scenario() -> None:
        async with world() as w, _two(w) as (app, _):
            tail = "\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\nConnection: close\r\n\r\n"
            await w.raw("vm-a", _filled(w, f"GET /probe HTTP/0.9{tail}"), patience=1)
            assert _proved(app) == [b"GET /probe HTTP/0.9"]

    asyncio.run(scenario())


def _odd_requests(w: World) -> dict[str, Fields]:
    good = request(w, "vm-a")
    theirs = w.edge.endpoint("vm-b")
    line = "/probe HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled"
    return {
        "authority of another": replaced(good, [(":authority", theirs)]),
        "host of another": [*good, ("host", theirs)],
        "authority twice": [(":authority", theirs), *good],
        "path twice": [(":path", "/smuggled"), *good],
        "no path": [field for field in good if field[0] != ":path"],
        "no authority": [field for field in good if field[0] != ":authority"],
        "no method": [field for field in good if field[0] != ":method"],
        "empty path": replaced(good, [(":path", "")]),
        "path with a request in it": replaced(good, [(":path", line)]),
        "path that is a name": replaced(good, [(":path", f"@{theirs}/")]),
        "method with a request in it": replaced(good, [(":method", f"GET {line}")]),
        "scheme with a request in it": replaced(good, [(":scheme", f"https://{theirs}/?")]),
        "authority with a request in it": replaced(
            good, [(":authority", f"{w.edge.endpoint('vm-a')}\r\nX: y")]
        ),
        "value with a line in it": [*good, ("x", "1\r\nContent-Length: 5")],
        "value with a line feed": [*good, ("x", "1\nhost: a")],
        "value with a null": [*good, ("x", "1\0")],
        "name with a line in it": [*good, ("x: 1\r\ntransfer-encoding", "chunked")],
        "name with a colon": [*good, ("transfer-encoding:", "chunked")],
        "name with a space": [*good, ("transfer-encoding ", "chunked")],
        "name in capitals": [*good, ("X-Upper", "1")],
        "empty name": [*good, ("", "1")],
        "transfer-encoding": [*good, ("transfer-encoding", "chunked")],
        "connection": [*good, ("connection", "upgrade")],
        "upgrade": [*good, ("upgrade", "h2c")],
        "te": [*good, ("te", "chunked")],
        "length without a body": [*good, ("content-length", "44")],
        "two lengths": [*good, ("content-length", "0"), ("content-length", "44")],
        "pseudo header after others": [*good, (":path", "/smuggled")],
        "pseudo header that is none": [(":smuggled", "1"), *good],
        "status": [(":status", "200"), *good],
        "CONNECT": replaced(good, [(":method", "CONNECT")]),
        "CONNECT to a port of the host": [
            (":method", "CONNECT"),
            (":authority", "127.0.0.1:22"),
            good[4],
        ],
        "a protocol that is none": [
            (":protocol", "smuggled"),
            *replaced(good, [(":method", "CONNECT")]),
        ],
        "token twice": [*good, good[4]],
    }


SPLITTING = {
    "authority of another",
    "host of another",
    "authority twice",
    "path twice",
    "path with a request in it",
    "method with a request in it",
    "value with a line feed",
    "value with a null",
    "name with a line in it",
    "name with a colon",
    "name with a space",
    "transfer-encoding",
    "length without a body",
    "two lengths",
    "a body longer than it says",
}
"""What the application gets of them is another request, or two."""
HARMLESS = {
    *("te", "upgrade", "connection", "name in capitals", "no authority", "length without a body"),
    # The authority counts, and is the Host that the application sees.
    "host of another",
}
"""May be answered with 200, as a request of vm-a that has lost the odd part."""


async def _odd(w: World, name: str, fields: Fields) -> None:
    """On a connection of its own, with a plain request behind it; what is answered to the first."""
    async with attacker(w) as peer:
        await peer.send(peer.headers(1, fields))
        await peer.send(peer.headers(3, request(w, "vm-a", path="/after")))
        found = await peer.frames(8, limit=2)
        decoder = Decoder()
        said = {
            one.stream_id: dict(decoder.decode(one.data, raw=True)).get(b":status")
            for one in found
            if isinstance(one, HeadersFrame)
        }
        allowed = {None, b"400", b"403", b"405", b"408", b"501", b"502"}
        if name in HARMLESS:
            allowed.add(b"200")
        assert said.get(1) in allowed, (name, said)


def _naively(fields: Fields, body: bytes = b"") -> bytes:
    """As a proxy writes a request for HTTP/1.1 that looks at no name and no value."""
    said = dict(reversed(fields))
    lines = [f"{said.get(':method')} {said.get(':path')} HTTP/1.1"]
    lines += [f"host: {said.get(':authority')}"]
    lines += [f"{name}: {value}" for name, value in fields if not name.startswith(":")]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def test_odd_requests_through_a_proxy_that_translates() -> None:
    """The same requests split, change their owner and bring headers of HTTP/1.1 with them."""
    seen: list[bytes] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read())
        writer.close()

    async def scenario() -> None:
        async with world() as w, plain_guest("127.0.0.25", keep):
            longer = [*request(w, "vm-a"), ("content-length", "0")]
            odd = {name: _naively(fields) for name, fields in _odd_requests(w).items()}
            odd["a body longer than it says"] = _naively(longer, _filled(w, SECOND))
            for name, content in odd.items():
                reader, writer = await asyncio.open_connection("127.0.0.25", HTTP_PORT)
                writer.write(content)
                writer.write_eof()
                await reader.read()
                writer.close()
                theirs = f"host: {w.edge.endpoint('vm-b')}".encode()
                effects = (b"GET /smuggled", theirs, b"chunked", b"length: 44", b"\nhost: a", b"\0")
                if name in SPLITTING:
                    assert any(effect in seen[-1] for effect in effects), name

    asyncio.run(scenario())


def test_odd_requests_over_http2() -> None:
    async def scenario() -> None:
        async with world() as w, _two(w) as (app, other):
            async with asyncio.TaskGroup() as tasks:
                for name, fields in _odd_requests(w).items():
                    tasks.create_task(_odd(w, name, fields))
            assert not any(b"smuggled" in line for line in _proved(app)), app.heads
            assert other.heads == []
            seen = b"".join(app.heads).lower()
            assert w.edge.endpoint("vm-b").encode() not in seen
            for header in (b"transfer-encoding", b"upgrade:", b"length: 44", b"\r\nhost: a"):
                assert header not in seen, header

    asyncio.run(scenario())


def test_a_body_longer_and_shorter_than_it_says() -> None:
    """HTTP/2 knows where a body ends; HTTP/1.1 behind it goes by content-length."""

    async def scenario() -> None:
        async with world() as w, _two(w) as (app, other):
            smuggled = _filled(w, SECOND)
            for length in (0, 5, len(smuggled) + 5):
                async with attacker(w) as peer:
                    fields = request(w, "vm-a", ("content-length", str(length)))
                    fields = replaced(fields, [(":method", "POST")])
                    data = b"\0\0" + len(smuggled).to_bytes(1, "big") + b"\0\1\0\0\0\1" + smuggled
                    await peer.send(peer.headers(1, fields, end=False), data)
                    await peer.send(peer.headers(3, request(w, "vm-a")))
                    await peer.frames(8, limit=2)
            assert not any(b"smuggled" in line for line in _proved(app))
            assert other.heads == []

    asyncio.run(scenario())
