"""The bridge between a WebSocket at an endpoint and a shell in its MicroVM.

HAProxy checks the token, takes it out, and sends a WebSocket that came with a shell token here, to
a socket that only it may connect to. The first frame is the text
``{"type":"session_init","session_id":"<uuid>"}``; then binary frames are the terminal's bytes both
ways, the text ``{"type":"resize","cols":120,"rows":40}`` sizes it, any other text is typed, and the
end is close 1000 ``shell exited`` (all recorded). Nothing is read from one side before the other
has taken it, so neither a flood nor a slow client grows anything here. There are no pings: their
bytes would keep an idle MicroVM awake.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import structlog
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from microvmd.edge.resolve import Answer, Refuse, Resolve, Resolver, bind
from microvmd.messages.shell import (
    ENDPOINT_HEADER,
    OpenShell,
    ShellEnd,
    ShellEnded,
    Terminal,
    first_ended,
)

log = structlog.get_logger(__name__)

LARGEST_MESSAGE = 256 * 1024
"""Bytes of one message from a client; a larger one ends the session with close 1009."""
QUEUED_FRAMES = 4
START_LIMIT = 30.0
"""Seconds from the open WebSocket to session_init."""
CLOSE_LIMIT = 5.0
"""Seconds that a client may take to answer a close."""
_LONGEST_CONTROL = 256
_ENDPOINT_ID = re.compile(r"[a-z0-9-]{1,63}")

NORMAL, GOING_AWAY, INTERNAL, TRY_LATER = 1000, 1001, 1011, 1013
_CODES = {
    ShellEnd.SUSPENDED: GOING_AWAY,
    ShellEnd.TERMINATED: GOING_AWAY,
    ShellEnd.NOT_RUNNING: GOING_AWAY,
    ShellEnd.DETACHED: GOING_AWAY,
    ShellEnd.TOO_MANY: TRY_LATER,
}


@dataclass(frozen=True, slots=True)
class ShellDoor:
    """What the wiring knows: `locate` waits until a MicroVM runs or refuses, `open` starts a shell.

    Of a Forward only that it is none but a Refuse counts here.
    """

    locate: Resolve
    open: OpenShell


@dataclass(frozen=True, slots=True)
class Close:
    """How a WebSocket is ended."""

    code: int
    reason: str

    @classmethod
    def of(cls, why: ShellEnd) -> Close:
        return cls(_CODES.get(why, INTERNAL), why.value)


EXITED = Close(NORMAL, "shell exited")


@dataclass(frozen=True, slots=True)
class Resize:
    """A size that a client asks for."""

    rows: int
    cols: int


def parse_text(message: str) -> Resize | bytes:
    """A text frame: a resize, or what is to be typed (recorded: unknown control messages too)."""
    if len(message) <= _LONGEST_CONTROL and message.lstrip().startswith("{"):
        try:
            control = json.loads(message)
        except ValueError:
            control = {}
        rows, cols = control.get("rows"), control.get("cols")
        if control.get("type") == "resize" and _is_side(rows) and _is_side(cols):
            return Resize(rows, cols)
    return message.encode()


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= 65535


class Bridge:
    """All shell sessions of this machine, at most `per_microvm` of one endpoint at a time."""

    def __init__(self, door: ShellDoor, resolver: Resolver, per_microvm: int) -> None:
        self._door = door
        self._resolver = resolver
        self._per_microvm = per_microvm
        self._sessions: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()

    async def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Before the WebSocket opens: hold while the MicroVM resumes, as requests are held."""
        endpoint_id = request.headers.get(ENDPOINT_HEADER, "")
        if not _ENDPOINT_ID.fullmatch(endpoint_id):
            return _refusal(Refuse(400))
        if self._sessions[endpoint_id] + self._waiting[endpoint_id] >= self._per_microvm:
            return _refusal(Refuse(429))
        self._waiting[endpoint_id] += 1
        try:
            answer = await self._locate_unless_gone(connection, endpoint_id)
        finally:
            self._waiting[endpoint_id] -= 1
            if not self._waiting[endpoint_id]:
                del self._waiting[endpoint_id]
        return _refusal(answer) if isinstance(answer, Refuse) else None

    async def serve(self, socket: ServerConnection) -> None:
        """One session, from the open WebSocket to its close."""
        assert socket.request is not None
        endpoint_id, session_id = socket.request.headers[ENDPOINT_HEADER], str(uuid.uuid4())
        told = {"endpoint": endpoint_id, "session": session_id}
        try:
            with self._counted(endpoint_id) as within:
                close = Close.of(ShellEnd.TOO_MANY)
                if within:
                    log.info("shell.opened", **told)
                    close = await _ended(self._converse(socket, endpoint_id, session_id))
        except Exception:
            log.exception("shell.failed", **told)
            close = Close(INTERNAL, "internal error")
        log.info("shell.closed", **told, code=close.code, reason=close.reason)
        await socket.close(close.code, close.reason)

    async def _locate_unless_gone(
        self, connection: ServerConnection, endpoint_id: str
    ) -> Answer | None:
        """None as soon as the client hangs up."""
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._resolver.ask(endpoint_id))
            leaving = group.create_task(connection.wait_closed())
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            answer = asking.result() if asking.done() else None
            asking.cancel()
            leaving.cancel()
        return answer

    @contextlib.contextmanager
    def _counted(self, endpoint_id: str) -> Iterator[bool]:
        """Whether the session is within the limit; many may have been admitted at once."""
        within = self._sessions[endpoint_id] < self._per_microvm
        self._sessions[endpoint_id] += within
        try:
            yield within
        finally:
            self._sessions[endpoint_id] -= within
            if not self._sessions[endpoint_id]:
                del self._sessions[endpoint_id]

    async def _converse(self, socket: ServerConnection, endpoint_id: str, session_id: str) -> Close:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(START_LIMIT):
                terminal = await stack.enter_async_context(self._door.open(endpoint_id))
            init = {"type": "session_init", "session_id": session_id}
            await socket.send(json.dumps(init, separators=(",", ":")))
            return await _relay(socket, terminal)


async def _relay(socket: ServerConnection, terminal: Terminal) -> Close:
    """Both directions until one of them ends, or the MicroVM does."""
    # In the order in which they count when several end at once. A client that takes nothing keeps
    # the first from learning that the MicroVM is gone.
    return await first_ended(
        _ended(_show(socket, terminal)),
        _ended(_watch(terminal)),
        _ended(_type(socket, terminal)),
    )


async def _show(socket: ServerConnection, terminal: Terminal) -> Close:
    while (data := await terminal.read()) is not None:
        await socket.send(data)
    return EXITED


async def _watch(terminal: Terminal) -> Close:
    return Close.of(await terminal.over())


async def _type(socket: ServerConnection, terminal: Terminal) -> Close:
    async for message in socket:
        wanted = parse_text(message) if isinstance(message, str) else message
        if isinstance(wanted, Resize):
            await terminal.resize(wanted.rows, wanted.cols)
        else:
            await terminal.write(wanted)
    return Close(NORMAL, "")


async def _ended(work: Awaitable[Close]) -> Close:
    """How the work ended, also when it could not go on."""
    try:
        return await work
    except ShellEnded as ended:
        return Close.of(ended.why)
    except TimeoutError:
        return Close.of(ShellEnd.LOST)
    except ConnectionClosed as closed:
        # What the client or the library said; there is nobody left to tell.
        frame = closed.sent or closed.rcvd
        return Close(frame.code, frame.reason) if frame else Close(NORMAL, "")


def _refusal(answer: Refuse) -> Response:
    body = answer.body.encode()
    headers = Headers({"Content-Length": str(len(body)), "Connection": "close"})
    if body:
        headers.update({"Content-Type": "text/plain", "Cache-Control": "private, no-store"})
    return Response(answer.status, HTTPStatus(answer.status).phrase, headers, body)


@contextlib.asynccontextmanager
async def serve(
    path: Path, gid: int | None, door: ShellDoor, *, hold: float, per_microvm: int
) -> AsyncIterator[None]:
    """Serve shells on the socket until the context ends; it closes those that are open."""
    quiet = logging.getLogger("microvmd.edge.websockets")
    # Sessions are logged above; handshakes that clients break off are not worth a traceback.
    quiet.setLevel(logging.CRITICAL)
    async with asyncio.TaskGroup() as tasks:
        bridge = Bridge(door, Resolver(door.locate, tasks, hold), per_microvm)
        server = await unix_serve(
            bridge.serve,
            sock=bind(path, gid),
            process_request=bridge.admit,
            server_header=None,
            compression=None,
            open_timeout=hold + CLOSE_LIMIT,
            close_timeout=CLOSE_LIMIT,
            ping_interval=None,
            max_size=LARGEST_MESSAGE,
            max_queue=QUEUED_FRAMES,
            logger=quiet,
        )
        try:
            yield
        finally:
            end = Close.of(ShellEnd.DETACHED)
            server.close(code=end.code, reason=end.reason)
            await server.wait_closed()
