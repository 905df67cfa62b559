"""Who calls: from the signature of a request to the context that handlers get."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request

from microvmd.api.credentials import Credentials, Identity
from microvmd.api.errors import SignatureError
from microvmd.api.proven import Proven, keep, keep_claimed, proven
from microvmd.api.requests import RequestContext, address_of, read_body, signed_request
from microvmd.api.signed import Signature, SignedRequest
from microvmd.api.sigv4 import read_signature, verify

SIGNING_NAME = "lambda"

Clock = Callable[[], datetime]


def wall_clock() -> datetime:
    """The machine's time in UTC."""
    return datetime.now(UTC)


class Authenticator:
    """Checks requests of the API itself. ``region`` None takes signatures for any region."""

    def __init__(
        self, credentials: Credentials, region: str | None = None, clock: Clock = wall_clock
    ) -> None:
        self._credentials = credentials
        self._region = region
        self._clock = clock

    async def __call__(self, request: Request) -> tuple[RequestContext, bytes]:
        """For our own routes: SignatureError unless a known key signed the request, or this
        process asks itself for a caller that it has proven before (the console does)."""
        known = proven(request.scope)
        if known is not None:
            return known.context, known.body
        signed = signed_request(request.scope)
        claim = read_signature(signed)
        identity = await self.identify(request, claim)
        return await self.check(request, signed, claim, identity, str(uuid.uuid4()))

    async def identify(self, request: Request, claim: Signature) -> Identity | None:
        """Whose key a request names, before anything is proven; None when nobody has it. What is
        told of a refused call says the account (proven.py)."""
        identity = await self._credentials.find(claim.access_key)
        if identity is not None:
            keep_claimed(request.scope, identity.account)
        return identity

    async def check(
        self,
        request: Request,
        signed: SignedRequest,
        claim: Signature,
        identity: Identity | None,
        request_id: str,
    ) -> tuple[RequestContext, bytes]:
        """Read the body, as far as the caller is known at all, and verify both."""
        self._check_scope(claim)
        body = b"" if identity is None else await read_body(request)
        now = self._clock()
        verify(signed, claim, identity, body, now)
        assert identity is not None
        context = RequestContext(
            account=identity.account,
            region=claim.region,
            access_key=identity.access_key,
            request_id=request_id,
            now=now,
            caller=await self._credentials.caller(identity, now),
            source_ip=address_of(request),
        )
        keep(request.scope, Proven(context, body))
        return context, body

    def _check_scope(self, claim: Signature) -> None:
        if claim.service != SIGNING_NAME:
            raise SignatureError(
                "InvalidSignatureException",
                f"Credential should be scoped to correct service: '{SIGNING_NAME}'.",
            )
        if self._region is not None and claim.region != self._region:
            raise SignatureError(
                "InvalidSignatureException",
                f"Credential should be scoped to a valid region, not '{claim.region}'. "
                f"This server is '{self._region}'.",
            )
