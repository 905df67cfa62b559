"""Accounts and users of a live API, made over its own endpoints, and clients that are them."""

import json
from dataclasses import dataclass
from typing import Any

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.clients.live import KEY, REGION, LiveApi


@dataclass(frozen=True)
class Key:
    """An access key of somebody."""

    access_key: str
    secret: str
    account: str

    def client(self, api: LiveApi, service: str, **options: Any) -> Any:
        """An unmodified boto3 client."""
        return api.client(
            service,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret,
            **options,
        )


OPERATOR = Key(KEY.access_key, KEY.secret_key, KEY.account)


def ask(api: LiveApi, key: Key, method: str, path: str, body: Any = None) -> httpx.Response:
    """A signed request to one of the service's own endpoints."""
    content = b"" if body is None else json.dumps(body).encode()
    request = AWSRequest(method, f"{api.url}/microvmd/v1{path}", data=content)
    SigV4Auth(Credentials(key.access_key, key.secret), "lambda", REGION).add_auth(request)
    headers = dict(request.headers.items())
    with httpx.Client(trust_env=False, timeout=60) as client:
        return client.request(method, str(request.url), headers=headers, content=content)


def made(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def new_account(api: LiveApi, name: str) -> Key:
    """The administrator of a new account."""
    found = made(ask(api, OPERATOR, "POST", "/accounts", {"name": name}))
    key = found["key"]
    return Key(key["access_key"], key["secret"], found["account"]["account"])


def new_user(api: LiveApi, owner: Key, name: str, *statements: dict[str, Any]) -> Key:
    """A user of the owner's account with one policy, if there are statements."""
    base = f"/accounts/{owner.account}"
    made(ask(api, owner, "POST", f"{base}/users", {"name": name}))
    if statements:
        attach(api, owner, name, *statements)
    key = made(ask(api, owner, "POST", f"{base}/keys", {"user": name}))["key"]
    return Key(key["access_key"], key["secret"], owner.account)


def attach(api: LiveApi, owner: Key, user: str, *statements: dict[str, Any]) -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    path = f"/accounts/{owner.account}/users/{user}/policies/test"
    made(ask(api, owner, "PUT", path, {"document": document}))


def allow(action: Any, resource: Any = "*", **condition: Any) -> dict[str, Any]:
    found = {"Effect": "Allow", "Action": action, "Resource": resource}
    return found | ({"Condition": condition} if condition else {})
