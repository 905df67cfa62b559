"""The service's own routes, asked within the process: what a page needs beyond AWS.

The console is a client of ``/microvmd/v1`` like the commands; only the signature is replaced by
this process's word for who is logged in (``api/authenticate.py``), so rights hold alike.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from starlette.types import ASGIApp, Message

from microvmd.api.proven import Proven, keep
from microvmd.api.requests import RequestContext
from microvmd.model.errors import ApiError

PREFIX = "/microvmd/v1"
AGENT = "microvmd-console"
"""How the console is called where calls are recorded."""
_AHEAD = 16
"""Pieces of an answer that wait for whoever reads it."""
_CUT = 200
"""Characters that are shown of an answer without a message."""


class Refused(ApiError):
    """One of the service's own routes said no. ``document`` is the whole answer, where it is one;
    ``message`` is for readers, and cut."""

    code = "Refused"

    def __init__(
        self, status: int, code: str, message: str, document: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.name = code
        self.document = document or {}


@dataclass(slots=True)
class _Exchange:
    """One request and its answer, piece by piece."""

    body: bytes
    answer: "asyncio.Queue[Message]"
    asked: bool = False

    async def receive(self) -> Message:
        if self.asked:
            await asyncio.Event().wait()
        self.asked = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: Message) -> None:
        await self.answer.put(message)


class Inner:
    """A way to the routes of ``app``, whose paths begin with `PREFIX`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def ask(
        self,
        context: RequestContext,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        live: bool = False,
    ) -> Any:  # noqa: ANN401 - JSON of one of our own routes
        """The answer, which is JSON. Raises Refused. ``live`` as in `Proven`."""
        scope = _scope(context, method, f"{PREFIX}{path}", query or {})
        sent = b"" if body is None else json.dumps(body).encode()
        async with self._opened(scope, Proven(context, sent, live=live)) as pieces:
            whole = b"".join([piece async for piece in pieces])
        return json.loads(whole) if whole else None

    async def lines(
        self, context: RequestContext, path: str, query: Mapping[str, str], *, live: bool = False
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of an answer that has one a line, as they come. Raises Refused."""
        scope = _scope(context, "GET", f"{PREFIX}{path}", query)
        async with self._opened(scope, Proven(context, live=live)) as pieces:
            rest = b""
            async for piece in pieces:
                *complete, rest = (rest + piece).split(b"\n")
                for line in complete:
                    yield json.loads(line)

    @asynccontextmanager
    async def _opened(
        self, scope: dict[str, Any], asker: Proven
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        exchange = _Exchange(asker.body, asyncio.Queue(_AHEAD))
        keep(scope, asker)
        try:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(self._answer(scope, exchange))
                try:
                    start = await exchange.answer.get()
                    pieces = _pieces(exchange)
                    if start["status"] >= 400:
                        raise await _refused(start, pieces)
                    yield pieces
                finally:
                    answering.cancel()
        except BaseExceptionGroup as group:  # of whoever failed first: the route, or the reader
            raise group.exceptions[0] from group

    async def _answer(self, scope: dict[str, Any], exchange: _Exchange) -> None:
        await self._app(scope, exchange.receive, exchange.send)


def _scope(
    context: RequestContext, method: str, path: str, query: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": urlencode(query).encode(),
        "root_path": "",
        "headers": [(b"user-agent", AGENT.encode())],
        "client": (context.source_ip, 0) if context.source_ip else None,
        "server": None,
    }


async def _pieces(exchange: _Exchange) -> AsyncIterator[bytes]:
    while True:
        message = await exchange.answer.get()
        if piece := message.get("body", b""):
            yield piece
        if not message.get("more_body", False):
            return


async def _refused(start: Message, pieces: AsyncIterator[bytes]) -> Refused:
    whole = b"".join([piece async for piece in pieces])
    headers = {name.lower(): value for name, value in start["headers"]}
    code = headers.get(b"x-amzn-errortype", b"Refused").decode()
    try:
        found = json.loads(whole)
    except ValueError:
        found = None
    document = found if isinstance(found, dict) else {}
    said = document.get("message") or whole.decode(errors="replace")[:_CUT]
    return Refused(start["status"], code, str(said or "The service refused this."), document)
