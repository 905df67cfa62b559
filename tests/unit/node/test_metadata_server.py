"""HTTP of the metadata service: hostile bytes, limits, and a server on a loopback socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.metadata import Answer, Ask
from microvmd.node.metadata_server import (
    BODY_LIMIT,
    CONNECTIONS,
    HEAD_LIMIT,
    REQUESTS_PER_CONNECTION,
    Conversation,
    MetadataServer,
)

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
# Methods, targets, headers and lengths that are nearly right get further than random bytes.
PIECES = st.lists(
    st.sampled_from(
        [
            *(
                b"GET ",
                b"PUT ",
                b"CONNECT ",
                b"/latest/api/token ",
                b"HTTP/1.1\r\n",
                b"HTTP/1.0\r\n",
            ),
            *(
                b"Host: x\r\n",
                b"Content-Length: 5\r\n",
                b"Content-Length: 99999999999999999999\r\n",
            ),
            *(b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n"),
            *(
                b"Connection: close\r\n",
                b"\r\n",
                b"5\r\nhello\r\n",
                b"0\r\n\r\n",
                b"FFFFFFFFFFFFFFFFF\r\n",
            ),
            *(b"\n", b"\0", b"a" * 100, GET),
        ]
    ),
    max_size=20,
)


def _answer(ask: Ask) -> Answer:
    return Answer(200, b"yes") if ask.method in ("GET", "HEAD", "PUT") else Answer.page(405)


def drive(chunks: list[bytes]) -> list[int]:
    """What a server would do with these bytes; the statuses of its answers."""
    conversation, statuses = Conversation(), []
    for chunk in [*chunks, b""]:
        try:
            conversation.feed(chunk)
            while (found := conversation.next()) is not None:
                answer = found if isinstance(found, Answer) else _answer(found)
                assert conversation.encode(answer, NOW).startswith(b"HTTP/1.1 ")
                statuses.append(answer.status)
                if not conversation.again():
                    return statuses
        except EOFError:
            return statuses
    return statuses


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_are_answered_or_dropped(chunks: list[bytes]) -> None:
    drive(chunks)


@given(PIECES)
def test_bytes_that_are_nearly_right_are_answered_or_dropped(pieces: list[bytes]) -> None:
    drive([b"".join(pieces)])


@given(PIECES, st.integers(1, 40))
def test_answers_depend_on_the_bytes_and_not_on_how_they_come(
    pieces: list[bytes], size: int
) -> None:
    whole = b"".join(pieces)
    cut = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert drive(cut) == drive([whole])


def test_requests_follow_each_other_on_one_connection() -> None:
    assert drive([GET + GET[:7], GET[7:] + GET]) == [200, 200, 200]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"a" * HEAD_LIMIT, 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * HEAD_LIMIT, 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + b"a" * BODY_LIMIT * 2, 413),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 200),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n" + GET, 405),
    ],
)
def test_one_answer(request_bytes: bytes, status: int) -> None:
    assert drive([request_bytes]) == [status]


def test_names_of_headers_are_in_lower_case() -> None:
    conversation = Conversation()
    conversation.feed(b"GET /x?y HTTP/1.1\r\nHOST: h\r\nX-Aws: A\xff\r\n\r\n")
    assert conversation.next() == Ask("GET", "/x?y", {"host": "h", "x-aws": "A\xff"})


def test_an_answer_to_head_has_no_body() -> None:
    conversation = Conversation()
    conversation.feed(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    conversation.next()
    sent = conversation.encode(Answer(200, b"body"), NOW)
    assert b"Content-Length: 4\r\n" in sent
    assert sent.endswith(b"\r\n\r\n")


async def echo(ask: Ask) -> Answer:
    return Answer(200, ask.path.encode(), near=ask.path == "/near")


@asynccontextmanager
async def server() -> AsyncIterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = listener.getsockname()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            made = MetadataServer(tasks, listener, echo)
            try:
                yield address
            finally:
                made.close()


async def test_a_client_is_answered_until_the_connection_has_had_enough() -> None:
    async with server() as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET * (REQUESTS_PER_CONNECTION + 1))
        answered = await reader.read()
        writer.close()
    assert answered.count(b"HTTP/1.1 200 ") == REQUESTS_PER_CONNECTION


async def test_a_guest_holds_so_many_connections_and_no_more() -> None:
    async with server() as address:
        held = [await asyncio.open_connection(*address) for _ in range(CONNECTIONS)]
        for reader, writer in held:
            writer.write(GET)
            assert await reader.readline() == b"HTTP/1.1 200 \r\n"
        refused, more = await asyncio.open_connection(*address)
        assert await refused.read() == b""
        more.close()
        # A silent connection or one that is closed gives its place back.
        held[0][1].close()
        await held[0][1].wait_closed()
        while True:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(GET)
            first = await reader.readline()
            writer.close()
            if first:
                break
        for _, writer in held[1:]:
            writer.close()


async def test_it_ends_with_connections_open() -> None:
    async with server() as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET[:9])
        await writer.drain()
    with suppress(ConnectionResetError):  # what it had not read yet
        assert await reader.read() == b""
    writer.close()
