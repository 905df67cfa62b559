"""The roles of the local IAM, read over its own API: what they may do and whom they trust.

Every change passes the relay, which tells this module; so an answer is kept until then, or for a
few seconds where the local server was started anew.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from typing import Any, Protocol
from urllib.parse import unquote, urlencode

import httpx
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser

from microvmd.api.local.headers import local_headers
from microvmd.model.errors import InternalError
from microvmd.model.policy import MalformedPolicy, Policy

KEPT_S = 10.0
NOTHING_TEXT = '{"Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}'
"""Stands for a policy that cannot be read."""

_VERSION = "2010-05-08"


class Ask(Protocol):
    """Sends one request to the local server."""

    async def __call__(self, headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Response: ...


class LocalIam:
    """Implements ``credentials.Roles``."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._kept: dict[tuple[str, str], tuple[float, tuple[Policy, ...] | None]] = {}

    def forget(self, account: str) -> None:
        """Something was changed in the account's IAM."""
        for key in [key for key in self._kept if key[0] == account]:
            del self._kept[key]

    async def policies(self, account: str, role: str) -> tuple[Policy, ...] | None:
        """Inline and attached ones; None where there is no such role."""
        kept = self._kept.get((account, role))
        if kept is not None and self._clock() - kept[0] < KEPT_S:
            return kept[1]
        asked_at = self._clock()
        found = None
        if await self.trust(account, role) is not None:
            found = tuple([_read(text) async for text in self._documents(account, role)])
        self._kept[account, role] = (asked_at, found)
        return found

    async def trust(self, account: str, role: str) -> str | None:
        """The trust policy; None where there is no such role."""
        found = await self._call(account, "GetRole", RoleName=role)
        return None if found is None else unquote(found["Role"]["AssumeRolePolicyDocument"])

    async def managed(self, account: str, arn: str) -> str | None:
        """The document of a managed policy in its default version."""
        policy = await self._call(account, "GetPolicy", PolicyArn=arn)
        if policy is None:
            return None
        version = await self._call(
            account,
            "GetPolicyVersion",
            PolicyArn=arn,
            VersionId=policy["Policy"]["DefaultVersionId"],
        )
        return None if version is None else unquote(version["PolicyVersion"]["Document"])

    async def _documents(self, account: str, role: str) -> AsyncIterator[str | None]:
        names = await self._call(account, "ListRolePolicies", RoleName=role) or {}
        for name in names.get("PolicyNames", []):
            found = await self._call(account, "GetRolePolicy", RoleName=role, PolicyName=name)
            yield None if found is None else unquote(found["PolicyDocument"])
        async for arn in self._attached(account, role):
            yield await self.managed(account, arn)

    async def _attached(self, account: str, role: str) -> AsyncIterator[str]:
        """All pages: a Deny on the second one counts as any other."""
        asked = {"RoleName": role}
        while True:
            page = await self._call(account, "ListAttachedRolePolicies", **asked) or {}
            for policy in page.get("AttachedPolicies", []):
                yield policy["PolicyArn"]
            if not page.get("Marker"):
                return
            asked["Marker"] = page["Marker"]

    async def _call(self, account: str, action: str, **parameters: str) -> dict[str, Any] | None:
        body = urlencode({"Action": action, "Version": _VERSION, **parameters}).encode()
        headers = local_headers("iam", "us-east-1", account)
        headers.append((b"content-type", b"application/x-www-form-urlencoded"))
        answer = await self._ask(headers, body)
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise InternalError(f"The local IAM answered {answer.status_code} to {action}.")
        return _parse(action, answer.content)


def _read(text: str | None) -> Policy:
    try:
        return Policy.parse(NOTHING_TEXT if text is None else text)
    except MalformedPolicy:
        return Policy.parse(NOTHING_TEXT)


def _parse(action: str, content: bytes) -> dict[str, Any]:
    shape = _model().operation_model(action).output_shape
    assert shape is not None
    response: Mapping[str, Any] = {"status_code": 200, "headers": {}, "body": content}
    found: dict[str, Any] = create_parser("query").parse(response, shape)
    return found


@cache
def _model() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("iam", "service-2"), "iam")
