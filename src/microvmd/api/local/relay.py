"""Requests for other AWS services (S3, STS, IAM, logs, KMS), handed to the local AWS server.

``AWS_ENDPOINT_URL`` is global in every SDK, so the API's port must answer them too. The signature
is checked here; bodies stream both ways and are never held as a whole, but for the small requests
whose signature covers the body itself.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

import httpx
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from microvmd.api.authenticate import Clock, wall_clock
from microvmd.api.authorize import surroundings
from microvmd.api.credentials import Credentials, Identity
from microvmd.api.errors import BodyTimeout, BodyTooLarge, SignatureError
from microvmd.api.local.actions import ForeignRequest
from microvmd.api.local.answers import caller_identity, foreign_error, session_of
from microvmd.api.local.errors import JSON_SERVICES
from microvmd.api.local.headers import OURS, local_headers
from microvmd.api.local.iam import LocalIam
from microvmd.api.local.rights import ForeignRights
from microvmd.api.proven import Proven, keep, keep_claimed
from microvmd.api.requests import RequestContext, address_of, bounded, read_body
from microvmd.api.signed import Signature, SignedRequest, check_body
from microvmd.api.sigv4 import verify
from microvmd.model.errors import AccessDenied
from microvmd.model.policy import MalformedPolicy

SERVICES = frozenset({"s3", "sts", "iam", "logs", "kms"})
BUFFERED_LIMIT = 4 << 20
OBJECT_LIMIT = 5 << 30  # S3's own limit of one PUT
FRAMING = 64 << 10

_TIMEOUT = httpx.Timeout(60.0, connect=5.0, read=300.0)
_LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=8)
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Paths that the local server takes for its own controls, whoever signs.
_GUARDED = ("/moto-api", "/latest/meta-data", "/latest/api")

_log = structlog.get_logger("microvmd.relay")


class Relay:
    """Speaks HTTP over a UNIX socket to the local AWS server.

    ``hosts`` are the names under which this API is reached: a request to ``<bucket>.<host>`` is
    virtual-host style S3, and is passed on in path style. ``operator`` is the default account.
    """

    services = SERVICES

    def __init__(
        self,
        socket: Path,
        credentials: Credentials,
        operator: str,
        *,
        hosts: frozenset[str] = frozenset({"localhost"}),
        clock: Clock = wall_clock,
    ) -> None:
        self._socket = socket
        self._credentials = credentials
        self._hosts = hosts
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self.iam = LocalIam(self._ask_iam)
        self._rights = ForeignRights(self.iam, operator)

    async def start(self) -> None:
        """Make the connection pool; connections are opened as requests come."""
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket), limits=_LIMITS)
        self._client = httpx.AsyncClient(
            transport=transport, timeout=_TIMEOUT, follow_redirects=False, trust_env=False
        )
        self._client.headers.clear()

    async def stop(self) -> None:
        """Close the pool."""
        if self._client is not None:
            await self._client.aclose()

    async def answer(
        self, request: Request, signed: SignedRequest, claim: Signature, request_id: str
    ) -> Response:
        """Check who signs, then pass the request on and its answer back."""
        try:
            return await self._forward(request, signed, claim, request_id)
        except SignatureError as error:
            return foreign_error(claim.service, error.name, error.message, error.status, request_id)
        except AccessDenied as error:
            code = "AccessDeniedException" if claim.service in JSON_SERVICES else "AccessDenied"
            return foreign_error(claim.service, code, error.message, 403, request_id)
        except MalformedPolicy as error:
            code = "MalformedPolicyDocument"
            return foreign_error(claim.service, code, error.message, 400, request_id)
        except (BodyTooLarge, BodyTimeout) as error:
            return foreign_error(claim.service, "EntityTooLarge", error.message, 400, request_id)
        except httpx.TransportError as error:
            _log.error("local AWS does not answer", error=repr(error), service=claim.service)
            text = "The local AWS server does not answer. `microvmd doctor` says why."
            return foreign_error(claim.service, "ServiceUnavailable", text, 503, request_id)

    async def _forward(
        self, request: Request, signed: SignedRequest, claim: Signature, request_id: str
    ) -> Response:
        identity = await self._credentials.find(claim.access_key)
        if identity is not None:
            keep_claimed(request.scope, identity.account)
        path = self._path(signed)
        streams = claim.service == "s3"
        body = b"" if streams or identity is None else await read_body(request, BUFFERED_LIMIT)
        # The old way of presigning covers the path in path style.
        covered = replace(signed, path=path) if claim.old_expiry is not None else signed
        now = self._clock()
        verify(covered, claim, identity, None if streams else body, now)
        assert identity is not None
        caller = await self._credentials.caller(identity, now)
        foreign = ForeignRequest(claim.service, claim.region, identity.account, signed, path, body)
        address = address_of(request)
        key = identity.access_key
        context = RequestContext(
            identity.account, claim.region, key, request_id, now, caller, address
        )
        keep(request.scope, Proven(context, action=_action(foreign)))
        await self._rights.check(caller, foreign, surroundings(now, claim.region, address))
        if claim.service == "sts" and foreign.action == "GetCallerIdentity":
            return caller_identity(caller, claim.access_key, request_id)
        upstream = await self._send(
            signed.method,
            _target(path, signed.query),
            [
                *local_headers(claim.service, claim.region, identity.account),
                *_request_headers(signed, request),
            ],
            self._content(request, signed, claim) if streams else body,
        )
        self._rights.note(foreign)
        if claim.service == "sts" and upstream.status_code == 200:
            await self._learn(upstream, foreign, identity)
        return _Relayed(upstream)

    async def _send(
        self,
        method: str,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        content: AsyncIterator[bytes] | bytes,
    ) -> httpx.Response:
        assert self._client is not None, "the relay is not started"
        url = httpx.URL("http://localhost").copy_with(raw_path=target)
        outgoing = self._client.build_request(method, url, headers=headers, content=content)
        return await self._client.send(outgoing, stream=True)

    async def _ask_iam(self, headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Response:
        answer = await self._send("POST", b"/", headers, body)
        await answer.aread()
        return answer

    def _content(
        self, request: Request, signed: SignedRequest, claim: Signature
    ) -> AsyncIterator[bytes] | bytes:
        if signed.header("content-length") in (None, "0") and not signed.header(
            "transfer-encoding"
        ):
            check_body(claim, sha256().hexdigest())
            return b""
        return _checked(request.stream(), claim, _most(signed))

    async def _learn(
        self, upstream: httpx.Response, request: ForeignRequest, caller: Identity
    ) -> None:
        """Credentials that STS hands out must be able to sign requests to us."""
        content = await upstream.aread()
        session = session_of(request.action, content, caller)
        if session is not None:
            await self._credentials.learn(await self._rights.session(session, caller, request))

    def _path(self, signed: SignedRequest) -> str:
        host = (signed.header("host") or "").rsplit(":", 1)[0].lower()
        bucket = next((host[: -len(h) - 1] for h in self._hosts if host.endswith(f".{h}")), None)
        path = signed.path if bucket is None else f"/{bucket}{signed.path}"
        if unquote(path).startswith(_GUARDED):
            raise AccessDenied("This name is reserved.")
        return path


class _Relayed(Response):
    """The upstream answer as it comes, and the upstream connection given back whatever happens."""

    def __init__(self, upstream: httpx.Response) -> None:
        self._upstream = upstream
        self.status_code = upstream.status_code
        self.background = None
        self.raw_headers = [
            (name.lower(), value)
            for name, value in upstream.headers.raw
            if name.decode("latin-1").lower() not in _HOP_BY_HOP | {"date", "server"}
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            async for chunk in self._chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await self._upstream.aclose()

    async def _chunks(self) -> AsyncIterator[bytes]:
        if self._upstream.is_stream_consumed:
            yield self._upstream.content
            return
        async for chunk in self._upstream.aiter_raw():
            yield chunk


def _most(signed: SignedRequest) -> int:
    """Bytes of a body. One in signed pieces says how long it is without what surrounds these, of
    which the smallest has 8 KiB; the local server counts on that."""
    decoded = signed.header("x-amz-decoded-content-length") or ""
    if not (decoded.isascii() and decoded.isdigit()):
        return OBJECT_LIMIT
    return min(OBJECT_LIMIT, int(decoded) + int(decoded) // 8 + FRAMING)


async def _checked(
    chunks: AsyncIterator[bytes], claim: Signature, limit: int
) -> AsyncIterator[bytes]:
    """Pass a body on; the last piece only when the whole has the hash that was signed."""
    digest = sha256()
    held = b""
    async for chunk in bounded(chunks, limit):
        if not chunk:
            continue
        digest.update(chunk)
        if held:
            yield held
        held = chunk
    check_body(claim, digest.hexdigest())
    yield held


def _action(foreign: ForeignRequest) -> str:
    """For the audit log; empty where it cannot be told."""
    try:
        return foreign.action
    except AccessDenied:
        return ""


def _target(path: str, query: str) -> bytes:
    return (f"{path}?{query}" if query else path).encode("latin-1")


def _request_headers(signed: SignedRequest, request: Request) -> list[tuple[bytes, bytes]]:
    kept = [
        (name, value)
        for name, value in request.scope["headers"]
        if name.decode("latin-1").lower() not in _HOP_BY_HOP | OURS
    ]
    if signed.header("transfer-encoding"):
        kept.append((b"transfer-encoding", b"chunked"))
    return kept
