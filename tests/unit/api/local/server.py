"""The local AWS server itself (moto), without its socket."""

import uuid
from typing import Any
from urllib.parse import urlencode

import httpx
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from microvmd.api.local.headers import local_headers

FORM = (b"content-type", b"application/x-www-form-urlencoded")


class LocalServer:
    """Implements ``iam.Ask``. Roles get names of their own: moto keeps them per process."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.asked = 0
        self._client = httpx.Client(
            transport=httpx.WSGITransport(app=DomainDispatcherApplication(create_backend_app)),
            base_url="http://localhost",
            trust_env=False,
        )

    async def __call__(self, headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Response:
        self.asked += 1
        return self._client.post("/", headers=headers, content=body)

    def iam(self, action: str, **parameters: Any) -> None:
        """What a client does in the account, through the relay or past it."""
        body = urlencode({"Action": action, "Version": "2010-05-08", **parameters})
        headers = [*local_headers("iam", "us-east-1", self.account), FORM]
        answer = self._client.post("/", headers=headers, content=body.encode())
        assert answer.status_code == 200, answer.text

    def role(self, trust: str = '{"Statement": []}') -> str:
        """A new role's name."""
        name = f"role-{uuid.uuid4().hex[:12]}"
        self.iam("CreateRole", RoleName=name, AssumeRolePolicyDocument=trust)
        return name
