"""Log queue and exec session: bounds against a hostile guest, credit, ends."""

import asyncio
from typing import Any

import pytest

from microvmd.messages.guest import ERROR_BIT, WINDOW, Frame, FrameKind
from microvmd.node.guest_streams import (
    CREDIT_AT_ONCE,
    LINE_COST,
    LOG_LIMIT,
    STDERR,
    STDOUT,
    ExecSession,
    Exit,
    GuestGone,
    LogQueue,
    log_cost,
)

pytestmark = pytest.mark.anyio


class Channel:
    """Collects what a session sends."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self.requests: list[tuple[str, dict[str, object]]] = []
        self.forgotten = False

    async def request(self, op: str, members: dict[str, object]) -> dict[str, Any]:
        self.requests.append((op, members))
        return {}

    def forget(self) -> None:
        self.forgotten = True

    def session(self) -> ExecSession:
        return ExecSession(7, self.sent.append, self.request, self.forget)


def data(payload: bytes, *, error: bool = False) -> Frame:
    return Frame(FrameKind.DATA, 7 | ERROR_BIT if error else 7, payload)


async def test_logs_keep_their_order_and_end() -> None:
    logs = LogQueue()
    logs.put(STDOUT, b"a")
    logs.put(STDERR, b"b")
    logs.end()
    assert [chunk async for chunk in logs] == [(STDOUT, b"a"), (STDERR, b"b")]


async def test_a_waiting_reader_is_woken() -> None:
    logs = LogQueue()
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(anext(logs))
        await asyncio.sleep(0)
        logs.put(STDOUT, b"late")
    assert reader.result() == (STDOUT, b"late")


async def test_a_slow_reader_loses_the_oldest_and_is_told() -> None:
    logs = LogQueue()
    fitting = LOG_LIMIT // log_cost(bytes(65536))
    for _ in range(fitting + 3):
        logs.put(STDOUT, bytes(65536))
    logs.end()
    chunks = [chunk async for chunk in logs]
    marker = b"[microvmd: 196608 bytes of older log were dropped]\n"
    assert chunks[0] == (STDERR, marker)
    assert sum(len(chunk) for _, chunk in chunks[1:]) == fitting * 65536


@pytest.mark.parametrize("piece", [b"x", b"\n", b"\n" * 1000])
async def test_small_pieces_and_empty_lines_fill_the_queue_too(piece: bytes) -> None:
    logs = LogQueue()
    for _ in range(2 * LOG_LIMIT // log_cost(piece)):
        logs.put(STDOUT, piece)
    logs.end()
    kept = [chunk async for _, chunk in logs]
    assert sum(map(log_cost, kept[1:])) <= LOG_LIMIT
    assert sum(chunk.count(b"\n") for chunk in kept) <= LOG_LIMIT // LINE_COST


async def test_nothing_is_no_piece() -> None:
    logs = LogQueue()
    for _ in range(1000):
        logs.put(STDOUT, b"")
    logs.end()
    assert [chunk async for chunk in logs] == []


async def test_a_rest_ends_with_the_queue() -> None:
    logs = LogQueue()
    await logs.rest(0.001)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(logs.rest(3600))
        await asyncio.sleep(0)
        logs.end()


async def test_reading_gives_credit_back_per_stream_and_in_portions() -> None:
    channel = Channel()
    session = channel.session()
    almost = bytes(CREDIT_AT_ONCE - 1)
    for payload in (almost, b"out"):
        session.take(data(payload))
    session.take(data(almost + b"error", error=True))
    assert await session.read() == (STDOUT, almost)
    assert channel.sent == []
    assert await session.read() == (STDOUT, b"out")
    assert await session.read() == (STDERR, almost + b"error")
    assert channel.sent == [
        Frame(FrameKind.WINDOW, 7, (CREDIT_AT_ONCE + 2).to_bytes(4, "little")),
        Frame(FrameKind.WINDOW, 7 | ERROR_BIT, (CREDIT_AT_ONCE + 4).to_bytes(4, "little")),
    ]
    session.ended(Exit(0, None))
    assert await session.read() is None
    assert await session.wait() == Exit(0, None)


async def test_more_output_than_the_window_is_a_violation() -> None:
    session = Channel().session()
    session.take(data(bytes(65536)))
    session.take(data(bytes(65536), error=True))
    with pytest.raises(ValueError, match="window"):
        session.take(data(b"x"))


async def test_read_output_counts_until_its_credit_is_given_back() -> None:
    session = Channel().session()
    session.take(data(b"read"))
    await session.read()
    with pytest.raises(ValueError, match="window"):
        session.take(data(bytes(WINDOW)))


@pytest.mark.parametrize("payload", [b"", b"\1\0\0", b"\1\0\0\0"])
async def test_credit_beyond_the_window_is_a_violation(payload: bytes) -> None:
    with pytest.raises(ValueError, match="window"):
        Channel().session().take(Frame(FrameKind.WINDOW, 7, payload))


async def test_writing_waits_for_credit() -> None:
    channel = Channel()
    session = channel.session()
    async with asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(session.write(bytes(WINDOW + 10)))
        await asyncio.sleep(0)
        assert not writer.done()
        assert sum(len(frame.payload) for frame in channel.sent) == WINDOW
        session.take(Frame(FrameKind.WINDOW, 7, (100).to_bytes(4, "little")))
    assert sum(len(frame.payload) for frame in channel.sent) == WINDOW + 10


async def test_writing_to_an_ended_process_returns() -> None:
    session = Channel().session()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(session.write(bytes(WINDOW + 10)))
        await asyncio.sleep(0)
        session.ended(Exit(None, 9))


async def test_a_lost_connection_reaches_reader_and_writer() -> None:
    session = Channel().session()
    session.fail(GuestGone("gone"))
    with pytest.raises(GuestGone):
        await session.read()
    with pytest.raises(GuestGone):
        await session.write(bytes(WINDOW + 1))


async def test_leaving_a_session_ends_the_process() -> None:
    channel = Channel()
    async with channel.session() as session:
        await session.resize(1, 2)
        await session.signal(15)
    assert channel.sent == [Frame(FrameKind.CLOSE, 7, b"")]
    assert channel.forgotten
    assert channel.requests == [
        ("resize", {"stream": 7, "rows": 1, "cols": 2}),
        ("signal", {"stream": 7, "signal": 15}),
    ]


@pytest.mark.parametrize(
    "value",
    [{}, {"code": 1, "signal": 2}, {"code": "1"}, {"code": None, "signal": None}, {"code": True}],
)
def test_a_malformed_exit_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no exit"):
        Exit.of(value)
