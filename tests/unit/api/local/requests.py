"""Requests of other AWS services as botocore makes them, and as the relay hands them on."""

from functools import cache
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config

from microvmd.api.local.actions import ForeignRequest
from microvmd.api.signed import SignedRequest

ACCOUNT = "444455556666"
REGION = "eu-west-1"


class _Captured(Exception):
    def __init__(self, request: AWSPreparedRequest) -> None:
        self.request = request


def _capture(request: AWSPreparedRequest, **_: object) -> None:
    raise _Captured(request)


@cache
def _client(service: str) -> Any:
    client = botocore.session.Session().create_client(
        service,
        region_name=REGION,
        endpoint_url="http://localhost",
        aws_access_key_id="AKIA",
        aws_secret_access_key="secret",
        config=Config(
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            parameter_validation=False,
        ),
    )
    client.meta.events.register("before-send", _capture)
    return client


def made(service: str, operation: str, **parameters: Any) -> ForeignRequest:
    """``operation`` as the client spells it: ``get_object``."""
    try:
        getattr(_client(service), operation)(**parameters)
    except _Captured as captured:
        sent = captured.request
    url = urlsplit(sent.url)
    headers = tuple((name.lower(), _text(value)) for name, value in sent.headers.items())
    signed = SignedRequest(sent.method, url.path, url.query, headers)
    return ForeignRequest(service, REGION, ACCOUNT, signed, url.path, _bytes(sent.body))


def raw(
    service: str,
    method: str = "POST",
    path: str = "/",
    query: str = "",
    body: bytes = b"",
    **headers: str,
) -> ForeignRequest:
    """What no client would send."""
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    signed = SignedRequest(method, path, query, pairs)
    return ForeignRequest(service, REGION, ACCOUNT, signed, path, body)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    return bytes(body) if isinstance(body, (bytes, bytearray)) else bytes(body.read())
