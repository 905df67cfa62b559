"""Signed bytes to the API and what came back, without a client library in between."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.clients.live import KEY, REGION, LiveApi


@dataclass(frozen=True, slots=True)
class Answer:
    """What came over the wire; header names in small letters."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def send(
    api: LiveApi,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    signed: bool = True,
) -> Answer:
    """Send bytes with raw colons in the path."""
    request = AWSRequest(method, f"{api.url}{path}", data=body, headers=dict(headers or {}))
    if signed:
        SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "lambda", REGION).add_auth(request)
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    try:
        sent = {"Host": urlsplit(api.url).netloc, **dict(request.headers.items())}
        connection.request(method, path, body=body, headers=sent)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, found, content)


def ask(
    api: LiveApi, method: str, path: str, document: Any = None
) -> tuple[int, dict[str, str], Any]:
    """Send a document; give back what came, parsed as JSON only."""
    answer = send(api, method, path, b"" if document is None else json.dumps(document).encode())
    return (
        answer.status,
        dict(answer.headers),
        json.loads(answer.content) if answer.content else None,
    )
