"""Unmodified botocore clients that talk to an ASGI application in their own process.

botocore builds and signs the request and parses the answer; only the socket between is left out.
"""

import asyncio
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from starlette.types import ASGIApp, Message

from tests.clients.live import CONFIG, KEY, REGION

URL = "http://api.invalid"


@dataclass
class Reply:
    """An answer as the application sent it."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        wanted = name.encode()
        return next((v.decode("latin-1") for k, v in self.headers if k.lower() == wanted), None)


async def call(
    app: ASGIApp,
    method: str,
    target: str,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
) -> Reply:
    """One request, as an HTTP server hands it to the application."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": query.encode("latin-1", "replace"),
        "headers": [(name.lower(), value) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    reply, sent = Reply(), False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status, reply.headers = message["status"], list(message["headers"])
        else:
            reply.body += message.get("body", b"")

    await app(scope, receive, send)
    return reply


class _Raw(io.BytesIO):
    """What botocore expects of urllib3."""

    def stream(self, **_: Any) -> Iterable[bytes]:
        yield self.read()


class InsideClients:
    """Makes clients whose requests ``app`` answers, on an event loop of their own."""

    def __init__(self, app: ASGIApp, runner: asyncio.Runner) -> None:
        self._app = app
        self._runner = runner

    def client(self, service: str) -> Any:
        made = boto3.client(  # type: ignore[call-overload]
            service,
            region_name=REGION,
            endpoint_url=URL,
            aws_access_key_id=KEY.access_key,
            aws_secret_access_key=KEY.secret_key,
            config=CONFIG,
        )
        made.meta.events.register("before-send", self._answer)
        return made

    def _answer(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        split = urlsplit(request.url)
        target = split.path + (f"?{split.query}" if split.query else "")
        headers = [(b"host", split.netloc.encode())] + [
            (name.encode(), value if isinstance(value, bytes) else str(value).encode())
            for name, value in request.headers.items()
        ]
        body = request.body or b""
        assert isinstance(body, bytes)
        reply = self._runner.run(call(self._app, request.method, target, headers, body))
        received = HTTPHeaders()
        for name, value in reply.headers:
            received[name.decode()] = value.decode("latin-1")
        return AWSResponse(request.url, reply.status, received, _Raw(reply.body))
