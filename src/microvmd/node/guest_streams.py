"""What flows from a guest beside replies: log bytes and exec streams, each bounded.

A guest is hostile: nothing here grows beyond a limit because of what it sends.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from microvmd.messages.guest import ERROR_BIT, MAX_PAYLOAD, WINDOW, Frame, FrameKind

STDOUT = 1
STDERR = 2

LOG_LIMIT = 8 * 1024 * 1024
"""Of `log_cost`, for what waits of one guest."""
LINE_COST = 128
CREDIT_AT_ONCE = WINDOW // 4
"""Credit is given back in portions: each WINDOW frame interrupts the guest, and a terminal that is
flooded sends a frame for every line."""


class GuestFailed(Exception):
    """A guest did not do what it was asked for."""


class GuestError(GuestFailed):
    """The agent refused. `code` is one of those that messages/guest.py lists."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"guest agent: {message} ({code})")
        self.code = code
        self.message = message


class GuestTimeout(GuestFailed):
    """No answer in time."""


class GuestGone(GuestFailed):
    """The connection ended, or the guest broke the protocol and was cut off."""


class GuestBroken(GuestGone):
    """The guest broke the protocol: its agent is not ours any more, or never was."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended; exactly one of the two is not None."""

    code: int | None
    signal: int | None

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Exit":
        """From JSON of the guest.

        Raises:
            ValueError: it says neither, both, or no numbers.
        """
        code, signal = value.get("code"), value.get("signal")
        if type(code) is int and signal is None:
            return cls(code, None)
        if type(signal) is int and code is None:
            return cls(None, signal)
        raise ValueError("no exit")


def log_cost(data: bytes) -> int:
    """What these bytes cost whoever keeps them: a line is an object and a write, if empty too."""
    return len(data) + LINE_COST * (1 + data.count(b"\n"))


class LogQueue:
    """(stream, bytes) as the application wrote them. A slow reader loses the oldest."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._dropped = 0
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    def put(self, stream: int, data: bytes) -> None:
        if not data:
            return
        self._chunks.append((stream, data))
        self._size += log_cost(data)
        while self._size > LOG_LIMIT:
            _, oldest = self._chunks.popleft()
            self._size -= log_cost(oldest)
            self._dropped += len(oldest)
        self._changed.set()

    def end(self) -> None:
        self._ended.set()
        self._changed.set()

    async def rest(self, seconds: float) -> None:
        """Wait so long, or until nothing more will come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        while not self._chunks:
            if self._ended.is_set():
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        if self._dropped:
            line = f"[microvmd: {self._dropped} bytes of older log were dropped]\n"
            self._dropped = 0
            return STDERR, line.encode()
        stream, data = self._chunks.popleft()
        self._size -= log_cost(data)
        return stream, data


class ExecSession:
    """A process beside the application. Leaving it as a context manager ends the process."""

    def __init__(
        self,
        stream: int,
        send: Callable[[Frame], None],
        request: Callable[[str, dict[str, object]], Awaitable[dict[str, Any]]],
        forget: Callable[[], None],
    ) -> None:
        self.stream = stream
        self._send = send
        self._request = request
        self._forget = forget
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._unread = {STDOUT: 0, STDERR: 0}
        self._owed = {STDOUT: 0, STDERR: 0}
        self._credit = WINDOW
        self._changed = asyncio.Event()
        self._exit: Exit | None = None
        self._broken: GuestFailed | None = None

    # What the connection tells us.

    def take(self, frame: Frame) -> None:
        """A frame of this stream.

        Raises:
            ValueError: the guest broke the protocol.
        """
        which = STDERR if frame.stream & ERROR_BIT else STDOUT
        match frame.kind:
            case FrameKind.DATA:
                self._unread[which] += len(frame.payload)
                if self._unread[which] + self._owed[which] > WINDOW:
                    raise ValueError("more output than the window")
                if frame.payload:
                    self._chunks.append((which, frame.payload))
            case FrameKind.WINDOW:
                credit = self._credit + int.from_bytes(frame.payload, "little")
                if len(frame.payload) != 4 or credit > WINDOW:
                    raise ValueError("bad window")
                self._credit = credit
            case _:
                raise ValueError(f"{frame.kind.name} on an exec stream")
        self._changed.set()

    def ended(self, end: Exit) -> None:
        self._exit = end
        self._changed.set()

    def fail(self, reason: GuestFailed) -> None:
        self._broken = reason
        self._changed.set()

    # What callers use.

    async def read(self) -> tuple[int, bytes] | None:
        """The next output as (STDOUT or STDERR, bytes); None when the process has ended."""
        while not self._chunks:
            if self._exit is not None:
                return None
            await self._wait()
        which, data = self._chunks.popleft()
        self._unread[which] -= len(data)
        self._owed[which] += len(data)
        if self._owed[which] >= CREDIT_AT_ONCE and self._exit is None and self._broken is None:
            stream = self.stream | ERROR_BIT if which == STDERR else self.stream
            self._send(Frame(FrameKind.WINDOW, stream, self._owed[which].to_bytes(4, "little")))
            self._owed[which] = 0
        return which, data

    async def write(self, data: bytes) -> None:
        """Give input; waits while the process does not read. After its end input is dropped."""
        view = memoryview(data)
        while view and self._exit is None:
            if self._credit == 0:
                await self._wait()
                continue
            count = min(self._credit, MAX_PAYLOAD, len(view))
            self._credit -= count
            self._send(Frame(FrameKind.DATA, self.stream, bytes(view[:count])))
            view = view[count:]

    def close_input(self) -> None:
        """End of input; nothing on a terminal, whose input has no end."""
        if self._exit is None:
            self._send(Frame(FrameKind.DATA, self.stream, b""))

    async def resize(self, rows: int, cols: int) -> None:
        self._check()
        await self._request("resize", {"stream": self.stream, "rows": rows, "cols": cols})

    async def signal(self, number: int) -> None:
        self._check()
        await self._request("signal", {"stream": self.stream, "signal": number})

    async def wait(self) -> Exit:
        """How the process ended. Output that nobody has read is dropped."""
        while await self.read() is not None:
            pass
        assert self._exit is not None
        return self._exit

    def close(self) -> None:
        """End the process if it still runs, and forget the stream."""
        if self._exit is None and self._broken is None:
            self._send(Frame(FrameKind.CLOSE, self.stream, b""))
        self._forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    async def _wait(self) -> None:
        self._check()
        self._changed.clear()
        await self._changed.wait()
