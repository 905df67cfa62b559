"""The resolver's socket: one call for all who wait, an end when all left, no way to hang it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from microvmd.edge import resolve
from microvmd.edge.resolve import Answer, Forward, Refuse, Resolve


@contextlib.asynccontextmanager
async def _served(answer: Resolve, limit: float = 10) -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "resolve.sock"
        async with asyncio.timeout(30), resolve.serve(path, None, answer, limit):
            yield path


async def _ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    with contextlib.closing(writer):
        writer.write(request)
        return await reader.read()


def _request(endpoint_id: str) -> bytes:
    return b"GET /resolve?vm=%b HTTP/1.0\r\n\r\n" % endpoint_id.encode()


def test_answers_and_failures() -> None:
    async def answer(endpoint_id: str) -> Answer:
        if endpoint_id == "broken":
            raise RuntimeError("a bug of the wiring")
        if endpoint_id == "slow":
            await asyncio.Event().wait()
        return Forward("10.0.0.1") if endpoint_id == "up" else Refuse(429, "busy")

    async def scenario() -> None:
        async with _served(answer, limit=0.1) as path:
            up = await _ask(path, _request("up"))
            assert up == b"HTTP/1.0 200 -\r\nContent-Length: 8\r\n\r\n10.0.0.1"
            assert (await _ask(path, _request("other"))).endswith(b"\r\n\r\nbusy")
            for failing in ("broken", "slow"):
                assert (await _ask(path, _request(failing))).startswith(b"HTTP/1.0 502 ")

    asyncio.run(scenario())


def test_one_call_for_all_and_cancelled_with_the_last() -> None:
    calls: list[str] = []

    async def scenario() -> None:
        called, cancelled = asyncio.Event(), asyncio.Event()

        async def answer(endpoint_id: str) -> Answer:
            calls.append(endpoint_id)
            called.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

        async with _served(answer) as path:
            writers = []
            for _ in range(3):
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(_request("vm-a"))
                writers.append(writer)
            await called.wait()
            for writer in writers[:2]:
                writer.close()
                await writer.wait_closed()
            await _ask(path, b"GET /other HTTP/1.0\r\n\r\n")  # a round trip later
            assert not cancelled.is_set()
            writers[2].close()
            await cancelled.wait()

    asyncio.run(scenario())
    assert calls == ["vm-a"]


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_other_bytes_are_refused(garbage: bytes) -> None:
    async def answer(_: str) -> Answer:
        raise AssertionError

    async def scenario() -> None:
        async with _served(answer) as path:
            got = await _ask(path, b"x" + garbage + b"\r\n\r\n")
            assert got.startswith(b"HTTP/1.0 400 ")

    asyncio.run(scenario())
