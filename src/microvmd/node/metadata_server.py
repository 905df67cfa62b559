"""The metadata service's sockets: one in each guest's namespace, HTTP/1.1 parsed by h11.

The guest is hostile: a request may have so many bytes and take so long, a guest may hold so many
connections, and requests beyond a rate wait, which costs the node nothing.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial

import h11
import structlog

from microvmd.model.pace import Pace
from microvmd.node import nftables
from microvmd.node.metadata import Answer, Ask

log = structlog.get_logger(__name__)

Respond = Callable[[Ask], Awaitable[Answer]]

PORT = 80
CONNECTIONS = 64
"""Connections of one guest; more are closed at once."""
HEAD_LIMIT = 8 * 1024
"""Bytes of a request line with its headers."""
BODY_LIMIT = 1024
"""Bytes of a body, which no request needs."""
REQUEST_LIMIT = 5.0
"""Seconds for a request to come, and for its answer to be taken."""
REQUESTS_PER_CONNECTION = 100
RATE, BURST = 50.0, 200
"""Requests of one guest each second, and at once."""
_READ = 4096
_NEAR = 1
"""Hops that a packet with a token may make: none."""


class Conversation:
    """One connection's HTTP: bytes in, requests out, and the bytes of answers. Pure."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._head: h11.Request | None = None
        self._body = 0

    def feed(self, data: bytes) -> None:
        """Bytes of the guest; none at its end."""
        self._http.receive_data(data)

    def next(self) -> Ask | Answer | None:
        """The next request when it is whole, the answer to one that cannot be, None = go on.

        Raises EOFError when nothing more comes.
        """
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return None
                if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    raise EOFError
                if isinstance(event, h11.Request):
                    self._head, self._body = event, 0
                elif isinstance(event, h11.Data):
                    self._body += len(event.data)
                    if self._body > BODY_LIMIT:
                        return Answer.page(413)
                elif isinstance(event, h11.EndOfMessage):
                    assert self._head is not None
                    return _ask(self._head)
        except h11.RemoteProtocolError as error:
            if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                raise EOFError from error
            return Answer.page(400)

    def encode(self, answer: Answer, now: float) -> bytes:
        """The bytes of an answer to what `next` gave."""
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Date", formatdate(now, usegmt=True)),
            ("Server", "EC2ws"),
            *answer.headers.items(),
        ]
        if self._http.their_state is not h11.DONE:
            # Its request was cut off: what follows cannot be told from the rest of it.
            headers.append(("Connection", "close"))
        events: list[h11.Event] = [h11.Response(status_code=answer.status, headers=headers)]
        if self._head is None or self._head.method != b"HEAD":
            events.append(h11.Data(data=answer.body))
        events.append(h11.EndOfMessage())
        return b"".join(self._http.send(event) or b"" for event in events)

    def again(self) -> bool:
        """Make ready for the next request; whether there may be one."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True


def _ask(head: h11.Request) -> Ask:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return Ask(head.method.decode("latin-1"), head.target.decode("latin-1"), headers)


def bind() -> socket.socket:
    """The listening socket, in the thread's namespace."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((nftables.METADATA, PORT))
        made.listen(CONNECTIONS)
    except BaseException:
        made.close()
        raise
    return made


class MetadataServer:
    """Serves one guest's socket from its creation until `close`, which also closes it."""

    def __init__(self, tasks: asyncio.TaskGroup, listener: socket.socket, respond: Respond) -> None:
        self._tasks = tasks
        self._listener = listener
        self._respond = respond
        self._pace = Pace(RATE, BURST)
        self._connections: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop at once: nothing is answered after this."""
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        for task in self._connections:
            task.cancel()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        if len(self._connections) >= CONNECTIONS:
            connection.close()
            return
        task = self._tasks.create_task(
            _guarded(partial(self._converse, connection)), name="metadata.connection"
        )
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: connection.close())  # also when it never started

    async def _converse(self, connection: socket.socket) -> None:
        conversation = Conversation()
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            for _ in range(REQUESTS_PER_CONNECTION):
                async with asyncio.timeout(REQUEST_LIMIT):
                    found = await _receive(connection, conversation)
                answer = found if isinstance(found, Answer) else await self._answer(found)
                if answer.near:
                    # For the rest of the connection: it may be sent again later.
                    connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _NEAR)
                async with asyncio.timeout(REQUEST_LIMIT):
                    await asyncio.get_running_loop().sock_sendall(
                        connection, conversation.encode(answer, time.time())
                    )
                if not conversation.again():
                    return

    async def _answer(self, ask: Ask) -> Answer:
        await asyncio.sleep(self._pace.spend(1, time.monotonic()))
        return await self._respond(ask)


async def _receive(connection: socket.socket, conversation: Conversation) -> Ask | Answer:
    loop = asyncio.get_running_loop()
    while True:
        found = conversation.next()
        if found is not None:
            return found
        conversation.feed(await loop.sock_recv(connection, _READ))


async def _guarded(work: Callable[[], Awaitable[None]]) -> None:
    """A task's border: one guest's bytes must not end the task group of all."""
    try:
        await work()
    except Exception:
        log.exception("metadata.connection_failed")
