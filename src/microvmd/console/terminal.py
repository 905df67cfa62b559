"""The terminal of a page: a WebSocket on the console's origin, joined to the edge's shell bridge.

Whoever may CreateMicrovmShellAuthToken gets it. The bridge (``edge/shell.py``) is the same that
HAProxy sends shells to, so limits, the wait for a resume and the words at the end are those of any
client. A terminal ends with its session.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from microvmd.console.visit import SocketVisit
from microvmd.messages.shell import ENDPOINT_HEADER, first_ended
from microvmd.model.errors import ApiError

OPEN_SECONDS = 60.0
"""To the shell's begin: a MicroVM that is SUSPENDED resumes first."""
WATCH_SECONDS = 2.0
REFUSED = 4403
LOGGED_OUT = 4401
NO_SHELL = 4502
_REASON_BYTES = 120
_MESSAGE_BYTES = 256 * 1024
_TOLD = {
    429: "the MicroVM has too many shells open",
    502: "the MicroVM does not run",
}


@dataclass(frozen=True, slots=True)
class End:
    """How a session ended: a WebSocket's close code and reason."""

    code: int
    reason: str = ""


async def serve_terminal(visit: SocketVisit) -> None:
    """One session, from the handshake (who asks is known) to its close."""
    socket = visit.socket
    await socket.accept()
    end = await _ended(_session(visit))
    reason = end.reason.encode()[:_REASON_BYTES].decode(errors="ignore")
    try:
        await socket.close(end.code, reason)
    except RuntimeError:  # the browser was first
        return


async def _session(visit: SocketVisit) -> End:
    name = visit.path("microvm")
    try:
        await visit.ask(
            "CreateMicrovmShellAuthToken", microvmIdentifier=name, expirationInMinutes=1
        )
        found = await visit.ask("GetMicrovm", microvmIdentifier=name)
    except ApiError as error:
        return End(REFUSED, str(error))
    if visit.console.shells is None:
        return End(NO_SHELL, "this service gives no shells")
    endpoint_id = found["endpoint"].partition(".")[0]
    try:
        async with unix_connect(
            str(visit.console.shells),
            "ws://shell/shell",
            additional_headers={ENDPOINT_HEADER: endpoint_id},
            open_timeout=OPEN_SECONDS,
            compression=None,
            ping_interval=None,
            max_size=_MESSAGE_BYTES,
        ) as shell:
            return await _relay(visit, shell)
    except InvalidStatus as refused:
        status = refused.response.status_code
        return End(NO_SHELL, _TOLD.get(status, f"the shell was refused ({status})"))
    except (OSError, TimeoutError):
        return End(NO_SHELL, "no shell could be started")


async def _relay(visit: SocketVisit, shell: ClientConnection) -> End:
    """Both directions until one side ends, or the session does."""
    return await first_ended(
        _ended(_show(visit.socket, shell)), _ended(_type(visit, shell)), _ended(_watch(visit))
    )


async def _show(socket: WebSocket, shell: ClientConnection) -> End:
    async for message in shell:
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_text(message)
    return End(shell.close_code or 1000, shell.close_reason or "")


async def _type(visit: SocketVisit, shell: ClientConnection) -> End:
    while True:
        message = await visit.socket.receive()
        visit.used = True
        if message["type"] == "websocket.disconnect":
            return End(1000)
        text = message.get("text")
        await shell.send(text if text is not None else message["bytes"])


async def _watch(visit: SocketVisit) -> End:
    while True:
        if not await visit.still_known():
            return End(LOGGED_OUT, "your login has ended")
        await asyncio.sleep(WATCH_SECONDS)


async def _ended(work: Awaitable[End]) -> End:
    try:
        return await work
    except ConnectionClosed as closed:
        frame = closed.rcvd
        return End(frame.code, frame.reason) if frame else End(NO_SHELL, "the shell was lost")
    except WebSocketDisconnect:
        return End(1000)
