"""One HTTP connection of the API, with limits that uvicorn leaves to a proxy in front of it.

Without them a caller that nobody knows holds memory with a head that never ends, and a descriptor
with a connection that says nothing.
"""

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT = 64 << 10
"""Bytes of request line and headers that may arrive in pieces."""
HEAD_SECONDS = 30.0
"""From the first byte of a request, or from the connection, to the end of the headers."""
SOCKET_PATHS = b"/console/"
"""Where a WebSocket may be opened; elsewhere its request is answered as any other."""
SOCKET_MESSAGE = 256 << 10
"""Bytes of one message of a WebSocket."""
LINGER_SECONDS = 5.0
"""How long a client may go on sending a body that has been answered already."""


def configure(app: ASGIApp, **options: Any) -> uvicorn.Config:  # noqa: ANN401 - uvicorn's own
    """uvicorn for the API: WebSockets for pages only, no second log, and these limits."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="websockets-sansio",
        ws_max_size=SOCKET_MESSAGE,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        **options,
    )


class Corked(asyncio.Transport):
    """A transport that sends the head of an answer together with the body that follows it.

    uvicorn writes them apart: twice the system calls, and twice the packets. What nothing follows
    in the same step of the event loop is sent at its end.
    """

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._inner = inner
        self._loop = loop
        self._held: bytes | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._held is not None:
            together, self._held = self._held + bytes(data), None
            self._inner.write(together)
        elif data[:5] == b"HTTP/":
            self._held = bytes(data)
            self._loop.call_soon(self._send)
        else:
            self._inner.write(data)

    def _send(self) -> None:
        if self._held is not None:
            data, self._held = self._held, None
            self._inner.write(data)

    def close(self) -> None:
        self._send()
        self._inner.close()

    def abort(self) -> None:
        self._held = None
        self._inner.abort()

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner.set_protocol(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as asyncio's
        return self._inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, bounded in what it takes before somebody is asked to answer it."""

    _in_head = False
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport, self.loop))
        self._close_in(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT:
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._close_in(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer: nothing that AWS defines, and nothing was signed
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._keep()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        answered = self.cycle.response_complete and self.cycle.more_body
        if answered and not self.transport.is_closing():
            self._close_in(LINGER_SECONDS)

    def on_message_complete(self) -> None:
        self._keep()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What follows a whole request and is none must not take that request's answer."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            cycle.keep_alive = False
        else:
            super().send_400_response(msg)

    def _should_upgrade(self) -> bool:
        return self.url.startswith(SOCKET_PATHS) and super()._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """A request that asks for another protocol is answered in this one, as HTTP allows."""

    def _close_in(self, seconds: float) -> None:
        self._keep()
        self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _keep(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
