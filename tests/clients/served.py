"""What the live API served, and to which client: the evidence of the coverage page.

The operation is found from the request as the server finds it, the client from its user agent, and
the outcome is what went over the wire. A test that only says that it called something leaves no
trace here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microvmd.api.errors import UnknownOperation, UnparsableQuery
from microvmd.api.operations import load_operations
from microvmd.api.routes import Router

BOTO3, AWSCLI, JAVASCRIPT, RAW = "boto3", "AWS CLI", "JS SDK", "raw"
SETUP = "arranges-only"
"""In the user agent of a client that prepares what another one is tested with."""
USER_AGENTS = {
    BOTO3: "Boto3/",
    AWSCLI: "aws-cli/1.",
    JAVASCRIPT: "aws-sdk-js/3.",
    RAW: "microvmd-golden/",
}
"""How the user agent of each begins."""


@dataclass(frozen=True, slots=True)
class Served:
    """One answered request."""

    client: str | None
    operation: str
    status: int
    error: str | None


@dataclass(frozen=True, slots=True)
class ServedLog:
    """All requests answered so far; safe to read from other threads than the server's."""

    entries: list[Served] = field(default_factory=list)

    def of(self, client: str, operation: str) -> Iterator[Served]:
        for entry in list(self.entries):
            if entry.client == client and entry.operation == operation:
                yield entry

    def succeeded(self, client: str, operation: str) -> bool:
        return any(entry.status < 300 for entry in self.of(client, operation))

    def errors(self, clients: Iterable[str], operation: str) -> set[tuple[int, str]]:
        """Status and name of every error that one of these clients was given."""
        return {
            (entry.status, entry.error)
            for client in clients
            for entry in self.of(client, operation)
            if entry.error is not None
        }


class Witness:
    """Wraps the application and writes down what it answers."""

    def __init__(self, app: ASGIApp, log: ServedLog) -> None:
        self._app = app
        self._log = log
        self._router = Router(load_operations())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message)
            await send(message)

        await self._app(scope, receive, watch if scope["type"] == "http" else send)

    def _note(self, scope: Scope, answer: Message) -> None:
        try:
            match = self._router.match(scope["method"], scope["raw_path"].decode("latin-1"))
        except (UnknownOperation, UnparsableQuery):
            return
        agent = _header(scope["headers"], b"user-agent") or ""
        error = _header(answer["headers"], b"x-amzn-errortype")
        self._log.entries.append(
            Served(told_apart(agent), match.operation.name, answer["status"], error)
        )


def told_apart(agent: str) -> str | None:
    """The client behind a user agent; None for any that is not under test."""
    if SETUP in agent:
        return None
    return next((name for name, start in USER_AGENTS.items() if agent.startswith(start)), None)


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in headers if key == name), None)
