"""Raw bytes on real connections: broken HTTP around real, signed requests.

What is right is that every answer is one of the API's, or HTTP's own 400; that a whole request gets
exactly one answer; and that the server lives on and lets every connection go.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from microvmd.api.connection import HEAD_LIMIT, configure
from microvmd.api.listener import listen
from tests.clients.inside import Reply
from tests.fuzz.signing import Raw
from tests.fuzz.verdict import complaint

QUIET = 0.1
"""Seconds without a byte after which the rest of an answer is not waited for."""
LIMIT = 20.0
KEPT = (b"content-type", b"user-agent", b"accept")
"""Headers that mean nothing to HTTP itself."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
HELLO = bytes.fromhex("160301002f0100002b0303") + bytes(43)


@dataclass
class Talk:
    """What goes over one connection, piece by piece, and what must come back."""

    pieces: list[bytes]
    answers: int | None = None
    """How many answers the API owes; None where HTTP itself is broken and may have its own."""


def head(raw: Raw, *extra: bytes, version: bytes = b"HTTP/1.1", end: bytes = b"\r\n") -> bytes:
    """Request line and headers."""
    line = raw.method.encode() + b" " + raw.target.encode("latin-1", "replace") + b" " + version
    fields = [name + b": " + value for name, value in raw.headers]
    return end.join([line, *fields, *extra, b"", b""])


def length(raw: Raw) -> bytes:
    return b"Content-Length: " + str(len(raw.body)).encode()


def whole(raw: Raw, *extra: bytes) -> bytes:
    """A request as a client sends it."""
    return head(raw, length(raw), *extra) + raw.body


CLOSE = b"Connection: close"
Break = Callable[[Raw, random.Random], Talk]


def as_it_is(raw: Raw, rng: random.Random) -> Talk:
    return Talk([whole(raw, CLOSE)], 1)


def in_pieces(raw: Raw, rng: random.Random) -> Talk:
    data = whole(raw, CLOSE)
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
    return Talk([data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)], 1)


def pipelined(raw: Raw, rng: random.Random) -> Talk:
    many = rng.randrange(2, 6)
    return Talk([whole(raw) * (many - 1) + whole(raw, CLOSE)], many)


def old_version(raw: Raw, rng: random.Random) -> Talk:
    version = rng.choice([b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.1x", b""])
    return Talk([head(raw, length(raw), version=version) + raw.body])


def other_host(raw: Raw, rng: random.Random) -> Talk:
    kept = [(name, value) for name, value in raw.headers if name != b"host"]
    hosts = rng.choice([[], [b"a", b"b"], [b""], [b"x" * 9000], [b"\xff"], [b"a b:99999"]])
    bare = Raw(raw.method, raw.target, [*kept, *((b"Host", host) for host in hosts)], raw.body)
    return Talk([whole(bare, CLOSE)])


def wrong_length(raw: Raw, rng: random.Random) -> Talk:
    lengths = [b"-1", b"abc", b"", b"1e3", b"0x10", b"9" * 30, b"1073741824", b"+5", b"5, 5", b"0"]
    value = rng.choice([*lengths, str(len(raw.body) + 5).encode()])
    again = rng.choice([b"Content-Length: 3", b"Transfer-Encoding: chunked", b"X: y", CLOSE])
    return Talk([head(raw, b"Content-Length: " + value, again) + raw.body])


def chunked(raw: Raw, rng: random.Random) -> Talk:
    body = raw.body or b"x"
    good = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    data = rng.choice(
        [
            good,
            b"%x;a=%s\r\n%s\r\n0\r\n\r\n" % (len(body), b"b" * 5000, body),
            b"%x\r\n%s\r\n0\r\nX-Amz-Date: late\r\n\r\n" % (len(body), body),
            b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n",
            b"-1\r\n" + body,
            b"xyz\r\n" + body,
            b"f" * 30 + b"\r\n" + body,
            b"%x\r\n%s" % (len(body) + 9, body),
            good[:-2],
            good.replace(b"\r\n", b"\n"),
            b"0\r\n\r\n" + good,
            b"\r\n\r\n",
        ]
    )
    coding = rng.choice(
        [b"chunked", b"chunked", b"Chunked", b"gzip, chunked", b"chunked, identity"]
    )
    return Talk([head(raw, b"Transfer-Encoding: " + coding, CLOSE) + data])


def expecting(raw: Raw, rng: random.Random) -> Talk:
    value = rng.choice([b"100-continue", b"100-Continue", b"200-ok", b""])
    first = head(raw, length(raw), b"Expect: " + value, CLOSE)
    pieces = [first, raw.body] if rng.random() < 0.5 else [first + raw.body]
    return Talk(pieces, 1)


def strange_headers(raw: Raw, rng: random.Random) -> Talk:
    line = rng.choice(
        [
            b"No-Colon",
            b" folded: x",
            b"Space : x",
            b": no name",
            b"A: b\0c",
            b"A\0: b",
            b"A: " + b"b" * 70_000,
            b"A" * 70_000 + b": b",
            b"A: \xff\xfe",
            b"\xff: a",
            b"A: b\rC: d",
            b"\r\n".join([b"X-%d: y" % n for n in range(3000)]),
            b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x",
            b"Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
            b"Content-Encoding: gzip",
            b"Connection: keep-alive, close, \xff",
            b"Transfer-Encoding: identity",
        ]
    )
    return Talk([head(raw, line, length(raw), end=rng.choice([b"\r\n"] * 5 + [b"\n"])) + raw.body])


def no_request(raw: Raw, rng: random.Random) -> Talk:
    junk = [
        b"",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://evil.example/2025-09-09/microvms HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        PREFACE,
        HELLO,
        rng.randbytes(rng.randrange(1, 300)),
        b"GET / HTTP/1.1\r\n" * 50,
    ]
    return Talk([rng.choice(junk)])


def cut_off(raw: Raw, rng: random.Random) -> Talk:
    data = whole(raw)
    return Talk([data[: rng.randrange(len(data))]])


def flipped_bytes(raw: Raw, rng: random.Random) -> Talk:
    data = bytearray(whole(raw, CLOSE))
    for _ in range(rng.choice([1, 1, 3, 20])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return Talk([bytes(data)])


def followed_by_junk(raw: Raw, rng: random.Random) -> Talk:
    return Talk([whole(raw) + rng.choice([b"\0", b"GET", b"\r\n\r\n\r\n", HELLO, b"{}", b"X"])])


BREAKS: tuple[Break, ...] = (
    as_it_is,
    in_pieces,
    pipelined,
    old_version,
    other_host,
    wrong_length,
    chunked,
    expecting,
    strange_headers,
    no_request,
    cut_off,
    flipped_bytes,
    followed_by_junk,
)


@dataclass
class Line:
    """A connection to the server under test."""

    port: int

    async def talk(self, talk: Talk) -> bytes:
        """Say all pieces, then listen until the server closes, or is quiet for a while."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        received = b""
        try:
            for piece in talk.pieces:
                writer.write(piece)
                with suppress(ConnectionError):
                    await writer.drain()
                await asyncio.sleep(0)
            # Whoever owes an answer and says "close" afterwards is waited for.
            patience = LIMIT if talk.answers is not None else QUIET
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(LIMIT):
                    while data := await asyncio.wait_for(reader.read(65536), patience):
                        received += data
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return received


def wrong(raw: Raw, talk: Talk, received: bytes) -> str | None:
    """What is wrong with the answers of one connection."""
    if not _is_http(raw) or _too_large(raw, talk):
        talk.answers = None
    try:
        replies = _replies(received, raw.method)
    except ValueError as error:
        return f"no HTTP: {error}: {received[:300]!r}"
    if talk.answers is not None and len(replies) != talk.answers:
        return f"{len(replies)} answers, not {talk.answers}: {received[:300]!r}"
    for reply in replies:
        plain = (reply.header("content-type") or "").startswith("text/plain")
        if talk.answers is None and reply.status == 400 and plain:
            continue  # HTTP's own refusal
        if reply.header("x-amzn-requestid") is None:
            return f"not an answer of the API: {reply}"
        if talk.answers is None:
            # The request may have become another one.
            if reply.status >= 500 and reply.status != 501:
                return f"a fault of the server: {reply}"
            continue
        if (found := complaint(raw, reply)) is not None:
            return f"{found}: {reply}"
    return None


def _is_http(raw: Raw) -> bool:
    """A method that HTTP's parser knows, and a target in visible ASCII."""
    known = raw.method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
    return known and all("!" <= character <= "~" for character in raw.target)


def _too_large(raw: Raw, talk: Talk) -> bool:
    """A head above the limit; of a pipelined one all counts that came in one piece with it."""
    pipelined = talk.answers is not None and talk.answers > 1
    return (pipelined or len(head(raw)) > HEAD_LIMIT) and sum(map(len, talk.pieces)) > HEAD_LIMIT


def _replies(received: bytes, method: str) -> list[Reply]:
    found = []
    while received:
        top, separator, rest = received.partition(b"\r\n\r\n")
        if not separator:
            raise ValueError("an answer without an end of its head")
        lines = top.split(b"\r\n")
        status = int(lines[0].split(b" ")[1])
        if status == 100:
            received = rest
            continue
        headers = [
            (n.lower(), v.strip()) for n, _, v in (line.partition(b":") for line in lines[1:])
        ]
        size = int(dict(headers).get(b"content-length", b"0"))
        if method == "HEAD" and (not rest or rest.startswith(b"HTTP/1.")):
            # The length of a body that does not come. HTTP's own refusals have theirs, and so has
            # the answer to another request behind it.
            size = 0
        found.append(Reply(status, headers, rest[:size]))
        received = rest[size:]

    return found


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[Line]:
    """The application behind the product's own HTTP server."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(configure(app))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]))
            try:
                yield Line(listener.getsockname()[1])
            finally:
                server.should_exit = True
