"""Who is let in, and what handlers are told about them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from starlette.requests import Request

from microvmd.api.authenticate import Authenticator
from microvmd.api.credentials import Identity, KeyRing
from microvmd.api.errors import SignatureError
from microvmd.api.requests import signed_request
from microvmd.api.sigv4 import read_signature

_KEY = Identity("AKIDEXAMPLE", "secret", "123456789012")


def _request(service: str = "lambda", region: str = "us-east-1", body: bytes = b"{}") -> Request:
    signing = AWSRequest("POST", "http://h/microvmd/v1/x", data=body)
    credentials = Credentials(_KEY.access_key, _KEY.secret_key)
    SigV4Auth(credentials, service, region).add_auth(signing)
    headers = [(n.lower().encode(), str(v).encode()) for n, v in signing.headers.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/microvmd/v1/x",
        "raw_path": b"/microvmd/v1/x",
        "query_string": b"",
        "headers": [(b"host", b"h"), *headers],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    return Request(scope, receive)


@pytest.mark.anyio
async def test_context_and_body() -> None:
    now = datetime.now(UTC)
    authenticator = Authenticator(KeyRing([_KEY]), "us-east-1", lambda: now)
    request = _request()
    signed = signed_request(request.scope)
    claim = read_signature(signed)
    identity = await authenticator.identify(request, claim)
    context, body = await authenticator.check(request, signed, claim, identity, "number")
    assert body == b"{}"
    assert (context.account, context.region, context.access_key, context.request_id) == (
        "123456789012",
        "us-east-1",
        "AKIDEXAMPLE",
        "number",
    )
    assert context.now == now


@pytest.mark.anyio
async def test_our_own_routes_ask_with_one_call() -> None:
    await Authenticator(KeyRing([_KEY]))(_request(region="anywhere"))
    for refused in (
        Authenticator(KeyRing([]))(_request()),
        Authenticator(KeyRing([_KEY]), "eu-west-1")(_request()),
        Authenticator(KeyRing([_KEY]))(_request(service="s3")),
    ):
        with pytest.raises(SignatureError):
            await refused
