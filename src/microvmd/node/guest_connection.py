"""One connection to a guest agent: greeting, requests and replies, and who gets which frame."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from microvmd.messages.guest import (
    ERROR_BIT,
    RESYNC,
    Frame,
    FrameKind,
    FrameParser,
    json_frame,
    json_payload,
)
from microvmd.model.pace import Pace
from microvmd.node.guest_streams import (
    STDERR,
    STDOUT,
    ExecSession,
    Exit,
    GuestBroken,
    GuestError,
    GuestGone,
    GuestTimeout,
    LogQueue,
)

REQUEST_LIMIT = 30.0
"""Seconds for a request whose work in the guest is short."""
RESYNC_AFTER = 2.0
"""Seconds without HELLO_ACK after which a half-read frame is suspected: a node died while it sent,
and the agent did not see the port close. A booting guest takes that long, too, and then reads the
zeros in a millisecond."""
RATE = 16 * 1024 * 1024
"""Bytes per second that are read of one guest in the long run, and as many at once."""
FRAME_COST = 2048
"""Bytes that a frame counts beside its own, so that many small ones are no way around the rate."""
LOG_COST = 4
"""How often a byte of log counts: an eighth of the rate is kept (`node/output.py`). To read what is
thrown away then is work for nothing, which neighbours feel."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the agent says of itself when a node connects. `state`: booted, running or exited."""

    agent: str
    state: str
    exit: Exit | None


Opening = tuple[str, dict[str, object]]
"""An operation and its members."""


class GuestConnection(asyncio.Protocol):
    """What `connect` makes; ends with the connection."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.logs = LogQueue()
        self.hello: Hello
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.lost: asyncio.Future[GuestGone] = loop.create_future()
        self._transport: asyncio.Transport
        self._parser = FrameParser(FrameKind.HELLO_ACK, lost=True)
        self._nonce = secrets.token_hex(16)
        self._greeted: asyncio.Future[None] = loop.create_future()
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._sessions: dict[int, ExecSession] = {}
        self._last_id = 0
        self._pace = Pace(RATE, RATE)
        self._log_bytes = 0
        self._reading_again: asyncio.TimerHandle | None = None

    async def greet(self, first: Opening | None = None) -> dict[str, Any]:
        """Say HELLO until the agent has answered it, and in the same breath the first request.

        Gives the result of that request: one round trip less, of which each wakes a cold guest.
        Raises GuestError, GuestTimeout, GuestGone.
        """
        said = json_frame(FrameKind.HELLO, 0, {"nonce": self._nonce}).encode()
        if first is None:
            await self._say(said)
            return {}
        op, members = first
        async with self._asked(self._new_id(), op, members, REQUEST_LIMIT) as (frame, reply):
            await self._say(said + frame.encode())
            return await reply()

    async def _say(self, opening: bytes) -> None:
        self._transport.write(opening)
        waiting: set[asyncio.Future[Any]] = {self._greeted, self.lost}
        first = asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait(waiting, timeout=RESYNC_AFTER, return_when=first)
        if not done:
            self._transport.write(RESYNC + opening)
            await asyncio.wait(waiting, return_when=first)
        if not self._greeted.done():
            raise self.lost.result()

    async def request(
        self, op: str, members: dict[str, object], *, limit: float = REQUEST_LIMIT
    ) -> dict[str, Any]:
        """Ask the agent; `limit` in seconds. Raises GuestError, GuestTimeout, GuestGone."""
        return await self._ask(self._new_id(), op, members, limit)

    async def open_session(self, op: str, members: dict[str, object]) -> ExecSession:
        """Start a process with `op`, which is exec or shell."""
        stream = self._new_id()

        def forget() -> None:
            self._sessions.pop(stream, None)

        session = ExecSession(stream, self._send, self.request, forget)
        # Known before the request: output may come in the same read as the reply.
        self._sessions[stream] = session
        try:
            await self._ask(stream, op, members, REQUEST_LIMIT)
        except BaseException:
            session.close()
            raise
        return session

    def hang_up(self) -> None:
        self._transport.abort()

    def _new_id(self) -> int:
        self._last_id = self._last_id % (ERROR_BIT - 1) + 1
        return self._last_id

    def _send(self, frame: Frame) -> None:
        if self.lost.done():
            raise self.lost.result()
        self._transport.write(frame.encode())

    async def _ask(
        self, request_id: int, op: str, members: dict[str, object], limit: float
    ) -> dict[str, Any]:
        async with self._asked(request_id, op, members, limit) as (frame, reply):
            self._send(frame)
            return await reply()

    @contextlib.asynccontextmanager
    async def _asked(
        self, request_id: int, op: str, members: dict[str, object], limit: float
    ) -> AsyncIterator[tuple[Frame, Callable[[], Awaitable[dict[str, Any]]]]]:
        """A frame to send, and how to wait for its result; replies are expected in between."""
        try:
            frame = json_frame(FrameKind.REQUEST, request_id, {"op": op, **members})
            frame.encode()
        except ValueError as error:
            raise GuestError("bad_request", f"{op} does not fit into a frame") from error
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[request_id] = reply

        async def result() -> dict[str, Any]:
            try:
                async with asyncio.timeout(limit):
                    return _result_of(op, await reply)
            except TimeoutError:
                raise GuestTimeout(f"the guest did not answer {op} in {limit:g} s") from None

        try:
            yield frame, result
        finally:
            del self._replies[request_id]
            if reply.done() and not reply.cancelled():
                # Nobody waited for it yet where the greeting before it has failed.
                reply.exception()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        examined = self._parser.examined
        try:
            for frame in self._parser.feed(data):
                self._take(frame)
            if self._greeted.done() and self._parser.violations:
                raise ValueError("bad frame header")
        except (ValueError, GuestGone) as error:
            self._end(GuestBroken(f"the guest broke the protocol: {error}"))
            self._transport.abort()
            return
        frames = self._parser.examined - examined
        cost = len(data) + FRAME_COST * frames + (LOG_COST - 1) * self._log_bytes
        self._log_bytes = 0
        wait = self._pace.spend(cost, time.monotonic())
        if wait > 0:
            # What the guest sends meanwhile waits in its own memory: its agent drops old log.
            self._transport.pause_reading()
            loop = asyncio.get_running_loop()
            self._reading_again = loop.call_later(wait, self._transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(GuestGone("the connection to the guest agent ended"))

    def _end(self, reason: GuestGone) -> None:
        if self.lost.done():
            return
        if self._reading_again is not None:
            self._reading_again.cancel()
        self.lost.set_result(reason)
        self.logs.end()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(reason)
        for session in self._sessions.values():
            session.fail(reason)

    def _take(self, frame: Frame) -> None:
        if not self._greeted.done():
            self._take_greeting(frame)
            return
        match frame.kind:
            case FrameKind.REPLY:
                reply = self._replies.get(frame.stream)
                # A late answer to a request that was given up is no error.
                if reply is not None and not reply.done():
                    reply.set_result(json_payload(frame))
            case FrameKind.LOG if frame.stream in (STDOUT, STDERR):
                self._log_bytes += len(frame.payload)
                self.logs.put(frame.stream, frame.payload)
            case FrameKind.EVENT:
                self._take_event(json_payload(frame))
            case FrameKind.DATA | FrameKind.WINDOW | FrameKind.CLOSE:
                self._take_exec(frame)
            case FrameKind.HELLO_ACK if json_payload(frame).get("nonce") == self._nonce:
                pass  # the answer to the HELLO that was repeated after RESYNC
            case _:
                raise ValueError(f"unexpected {frame.kind.name}")

    def _take_event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "exited" and not self.exited.done():
            self.exited.set_result(Exit.of(event))

    def _take_exec(self, frame: Frame) -> None:
        # A stream that was forgotten may still send what was under way.
        session = self._sessions.get(frame.stream & ~ERROR_BIT)
        if session is None:
            return
        if frame.kind is FrameKind.CLOSE:
            session.ended(Exit.of(json_payload(frame)))
        else:
            session.take(frame)

    def _take_greeting(self, frame: Frame) -> None:
        """Anything before our own nonce belongs to an older conversation."""
        try:
            answer = json_payload(frame)
        except ValueError:
            answer = {}
        if frame.kind is not FrameKind.HELLO_ACK or answer.get("nonce") != self._nonce:
            self._parser.search()
            return
        ended = exit_of(answer.get("exit"))
        self.hello = Hello(text(answer, "agent"), text(answer, "state"), ended)
        self._parser.violations = 0
        self._greeted.set_result(None)


def integer(value: dict[str, Any], name: str) -> int:
    """A number that the guest must have sent."""
    number = value.get(name)
    if type(number) is not int:
        raise GuestGone(f"the guest sent no number as {name}")
    return number


def text(value: dict[str, Any], name: str) -> str:
    """A text that the guest must have sent."""
    found = value.get(name)
    if not isinstance(found, str):
        raise GuestGone(f"the guest sent no text as {name}")
    return found


def exit_of(value: object) -> Exit | None:
    """The end of a process that the guest may have sent."""
    try:
        return Exit.of(value) if isinstance(value, dict) else None
    except ValueError as error:
        raise GuestGone("the guest sent a malformed exit") from error


def _result_of(op: str, answer: dict[str, Any]) -> dict[str, Any]:
    failure = answer.get("failure")
    if isinstance(failure, dict):
        raise GuestError(text(failure, "code"), text(failure, "message"))
    result = answer.get("result")
    if not isinstance(result, dict):
        raise GuestGone(f"the guest sent a malformed answer to {op}")
    return result
