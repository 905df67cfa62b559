"""One request as the API sees it: raw path, decoded headers, a body with limits."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from microvmd.api.errors import BodyTimeout, BodyTooLarge
from microvmd.api.signed import SignedRequest
from microvmd.model.caller import Caller
from microvmd.model.identifiers import microvm_id_in

BODY_LIMIT = 1 << 20
BODY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who asks, and when: what every handler is told beside its input."""

    account: str
    region: str
    access_key: str
    request_id: str
    now: datetime
    caller: Caller | None = None
    """What it may do; None may do nothing (authorize.py)."""
    source_ip: str | None = None

    def is_root_of(self, account: str) -> bool:
        """Whether an account's root asks: of the default account that is the operator."""
        return self.caller is not None and self.caller.is_root_of(account)

    def microvm_id(self, request: Mapping[str, Any]) -> str:
        """Of the MicroVM that a request is about, whichever way it is named."""
        return microvm_id_in(request["microvmIdentifier"], self.account, self.region)


def address_of(connection: HTTPConnection) -> str | None:
    """Whence it comes; None where that is not known."""
    return None if connection.client is None else connection.client.host


def signed_request(scope: Scope) -> SignedRequest:
    """What the signature covers. The server decodes ``path``; the client signed ``raw_path``."""
    return SignedRequest(
        method=scope["method"],
        path=(scope.get("raw_path") or scope["path"].encode()).decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
        headers=tuple((name.decode("latin-1").lower(), _text(v)) for name, v in scope["headers"]),
    )


async def read_body(request: Request, limit: int = BODY_LIMIT) -> bytes:
    """Read a whole body; a bigger or a slower one is refused, so that no caller can hold memory."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return b"".join([chunk async for chunk in bounded(request.stream(), limit)])
    except TimeoutError as error:
        raise BodyTimeout(f"The request body did not arrive within {BODY_SECONDS:.0f} s") from error


async def bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Pass chunks on until they are more than ``limit`` bytes."""
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"Request must be smaller than {limit} bytes")
        yield chunk


async def gone_away(request: Request) -> None:
    """Return when the client of a request whose body was read has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _text(value: bytes) -> str:
    """Clients sign the UTF-8 bytes of a header."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
