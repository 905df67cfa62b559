"""HTTP/2 as an attacker speaks it: single frames, in any order, with any content."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Iterable

from hpack import Encoder
from hyperframe.frame import Frame, HeadersFrame

from tests.edgelab import World

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, CONTINUATION, RST_STREAM, WINDOW_UPDATE, PRIORITY, DATA, HEADERS = (
    4,
    6,
    9,
    3,
    8,
    2,
    0,
    1,
)
END_STREAM, END_HEADERS = 0x1, 0x4
Fields = list[tuple[str, str]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, whether the protocol allows it or not."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame; names are numbers with an underscore before them."""
    body = b"".join(struct.pack(">HI", int(name[1:]), value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, body)


class H2Attacker:
    """One connection; header blocks are made by a real encoder, which checks nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.encoder = Encoder()
        self.port: int = writer.get_extra_info("sockname")[1]
        self.closed = False

    @property
    def over(self) -> bool:
        """Whether the other side has closed, as far as it shows without reading."""
        return self.closed or self.writer.transport.is_closing()

    def headers(self, stream: int, fields: Fields, *, end: bool = True) -> bytes:
        """A HEADERS frame."""
        made = HeadersFrame(stream, self.encoder.encode(fields))
        made.flags.add("END_HEADERS")
        if end:
            made.flags.add("END_STREAM")
        return made.serialize()

    async def send(self, *frames: bytes) -> None:
        """As fast as the other side takes it; it may close at any moment."""
        try:
            self.writer.writelines(frames)
            await self.writer.drain()
        except OSError:
            self.closed = True

    async def frames(self, count: int, *, limit: float = 10.0) -> list[Frame]:
        """The next frames that come back; fewer when the connection is closed or time is up."""
        found: list[Frame] = []
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
            async with asyncio.timeout(limit):
                while len(found) < count:
                    head = await self.reader.readexactly(9)
                    made, length = Frame.parse_frame_header(memoryview(head))
                    made.parse_body(memoryview(await self.reader.readexactly(length)))
                    found.append(made)
        return found


def request(w: World, endpoint_id: str, *more: tuple[str, str], path: str = "/probe") -> Fields:
    """A GET with a valid token of vm-a."""
    return [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", w.edge.endpoint(endpoint_id)),
        (":path", path),
        ("x-aws-proxy-auth", w.token("vm-a")),
        *more,
    ]


def replaced(fields: Fields, changes: Iterable[tuple[str, str]]) -> Fields:
    """Other values for headers of these names."""
    wanted = dict(changes)
    return [(name, wanted.get(name, value)) for name, value in fields]


@contextlib.asynccontextmanager
async def attacker(w: World) -> AsyncIterator[H2Attacker]:
    """Connected, the preface and empty settings sent."""
    trust = w.trust
    trust.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        w.edge.port,
        ssl=trust,
        server_hostname=f"vm-a.{w.settings.suffix}",
    )
    try:
        writer.write(PREFACE + settings())
        yield H2Attacker(reader, writer)
    finally:
        writer.transport.abort()
