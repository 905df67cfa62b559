"""Signed bytes to the API and what came back, without a client library in between."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.clients.live import KEY, REGION, LiveApi


def ask(
    api: LiveApi, method: str, path: str, document: Any = None
) -> tuple[int, dict[str, str], Any]:
    """Send signed bytes with raw colons in the path; give back what came, parsed as JSON only."""
    body = b"" if document is None else json.dumps(document).encode()
    request = AWSRequest(method, f"{api.url}{path}", data=body)
    SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "lambda", REGION).add_auth(request)
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    try:
        headers = {"Host": urlsplit(api.url).netloc, **dict(request.headers.items())}
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    found = {name.lower(): value for name, value in response.getheaders()}
    return response.status, found, json.loads(content) if content else None
