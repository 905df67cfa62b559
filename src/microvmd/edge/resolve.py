"""The socket where HAProxy asks about a MicroVM that is not in its map.

The answer may take as long as a resume. All who ask about one endpoint share one call of the
wiring's `resolve`; when the last of them hangs up, the call is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_REQUEST_LIMIT = 5.0
_REQUEST = re.compile(rb"GET /resolve\?vm=([a-z0-9-]{1,63}) HTTP/1\.[01]\r\n")


@dataclass(frozen=True, slots=True)
class Forward:
    """The MicroVM is RUNNING at this guest address."""

    address: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request ends with this status and text; an empty body is what AWS sends with 502."""

    status: int = 502
    body: str = ""


Answer = Forward | Refuse
Resolve = Callable[[str], Awaitable[Answer]]


@dataclass(slots=True)
class _Flight:
    """One call in progress and how many wait for it."""

    task: asyncio.Task[Answer]
    waiters: int = field(default=0)


class Resolver:
    """Single-flight calls of `resolve` with a time limit in seconds; never raises for a failure."""

    def __init__(self, resolve: Resolve, tasks: asyncio.TaskGroup, limit: float) -> None:
        self._resolve = resolve
        self._tasks = tasks
        self._limit = limit
        self._flights: dict[str, _Flight] = {}

    async def ask(self, endpoint_id: str) -> Answer:
        flight = self._flights.get(endpoint_id)
        if flight is None:
            flight = _Flight(self._tasks.create_task(self._call(endpoint_id)))
            self._flights[endpoint_id] = flight
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                # Whoever comes next needs a fresh answer, also while this one is being cancelled.
                if self._flights.get(endpoint_id) is flight:
                    del self._flights[endpoint_id]
                flight.task.cancel()

    async def _call(self, endpoint_id: str) -> Answer:
        try:
            async with asyncio.timeout(self._limit):
                return await self._resolve(endpoint_id)
        except TimeoutError:
            log.warning("edge.hold_expired", endpoint=endpoint_id, seconds=self._limit)
        except Exception:
            log.exception("edge.resolve_failed", endpoint=endpoint_id)
        return Refuse()


def _encode(answer: Answer) -> bytes:
    if isinstance(answer, Forward):
        status, body = 200, answer.address.encode()
    else:
        status, body = answer.status, answer.body.encode()
    return b"HTTP/1.0 %d -\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def _read_request(reader: asyncio.StreamReader) -> str | None:
    """The endpoint id of a well-formed request."""
    try:
        async with asyncio.timeout(_REQUEST_LIMIT):
            head = await reader.readuntil(b"\r\n\r\n")
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        return None
    found = _REQUEST.match(head)
    return found[1].decode() if found else None


async def _answer_unless_gone(
    resolver: Resolver, endpoint_id: str, reader: asyncio.StreamReader
) -> Answer | None:
    """The answer, or None as soon as the other side hangs up: its client is gone."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(resolver.ask(endpoint_id))
        leaving = group.create_task(reader.read(1))
        await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        answer = asking.result() if asking.done() else None
        asking.cancel()
        leaving.cancel()
    return answer


def bind(path: Path, gid: int | None) -> socket.socket:
    """A listening socket that only root and HAProxy's group may connect to."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        if gid is not None:
            os.chown(path, 0, gid)
        path.chmod(0o660 if gid is not None else 0o600)
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.asynccontextmanager
async def serve(path: Path, gid: int | None, resolve: Resolve, limit: float) -> AsyncIterator[None]:
    """Answer on the socket until the context ends; those who wait then are hung up on."""
    async with asyncio.TaskGroup() as tasks:
        resolver = Resolver(resolve, tasks, limit)
        connections: set[asyncio.Task[None]] = set()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError), contextlib.closing(writer):
                endpoint_id = await _read_request(reader)
                if endpoint_id is None:
                    writer.write(_encode(Refuse(400)))
                else:
                    reply = await _answer_unless_gone(resolver, endpoint_id, reader)
                    if reply is not None:
                        writer.write(_encode(reply))
                await writer.drain()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = tasks.create_task(answer(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_unix_server(accepted, sock=bind(path, gid))
        try:
            yield
        finally:
            server.close()
            for task in connections:
                task.cancel()
