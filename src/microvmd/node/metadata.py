"""What a guest learns at 169.254.169.254: the credentials of its role, as EC2's IMDSv2 gives them.

Only what SDKs ask for is there; everything else is not found. Version 1, which answers without a
token, is refused: an application that can be made to fetch a URL must not give credentials away.
Pure but for the credentials, which a request may wait a moment for.
"""

import base64
import hashlib
import hmac
import json
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

ROLE_NAME = "execution_role"
"""The name of every role in a guest (recorded)."""
LONGEST_TOKEN = 21600
"""Seconds that a token may last, as on EC2."""
PATIENCE = 0.8
"""Seconds that a request waits for the first credentials: SDKs give up after one."""
TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105 (the name of a header)
_TOKEN_PATH = "/latest/api/token"  # noqa: S105
_CREDENTIALS = "/latest/meta-data/iam/security-credentials"
_SIGNATURE_SIZE = 24
_PAGE = """<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
\t"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{title}</title>
 </head>
 <body>
  <h1>{title}</h1>
 </body>
</html>
"""
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Not Allowed",
    413: "Request Entity Too Large",
    503: "Service Unavailable",
}


class Held(Protocol):
    """Credentials as they are at one moment; times in seconds since the epoch."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def issued_at(self) -> float: ...
    @property
    def expires_at(self) -> float: ...


class Role(Protocol):
    """Where a guest's credentials come from (`roles.RoleSession`)."""

    @property
    def refused(self) -> bool: ...

    async def current(self, wait: float) -> Held | None: ...


@dataclass(frozen=True, slots=True)
class Instance:
    """What one guest may know. Without a role there are no credentials for it."""

    name: str
    region: str
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A request; names of headers in lower case, the last of two with one name."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """`near`: must not pass a router, so that a container behind one gets no token."""

    status: int
    body: bytes
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)
    near: bool = False

    @classmethod
    def page(cls, status: int) -> "Answer":
        """A refusal, as EC2 words it."""
        text = _PAGE.format(title=f"{status} - {_TITLES[status]}")
        return cls(status, text.encode(), "text/html")


class Tokens:
    """Makes and checks tokens: a time of expiry and its signature, bound to one guest.

    Nothing is stored, however many a guest asks for. The key lives as long as the process; clients
    ask for a new token where theirs is refused.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)

    def make(self, name: str, ttl: int, now: float) -> str:
        expiry = struct.pack("!Q", int(now) + ttl)
        return base64.urlsafe_b64encode(expiry + self._sign(name, expiry)).decode()

    def left(self, name: str, token: str, now: float) -> int | None:
        """Seconds that a token has left; None for one that is no longer or was never valid."""
        try:
            raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        except ValueError:
            return None
        expiry, signature = raw[:8], raw[8:]
        if len(expiry) < 8 or not hmac.compare_digest(signature, self._sign(name, expiry)):
            return None
        left: int = struct.unpack("!Q", expiry)[0] - int(now)
        return left if left > 0 else None

    def _sign(self, name: str, expiry: bytes) -> bytes:
        message = name.encode() + b"\0" + expiry
        return hmac.digest(self._key, message, hashlib.sha256)[:_SIGNATURE_SIZE]


async def answer(ask: Ask, instance: Instance | None, tokens: Tokens, now: float) -> Answer:
    """The answer to any request; None for an instance is one that nothing is known of."""
    name = "" if instance is None else instance.name
    path = ask.path.partition("?")[0]
    if ask.method == "PUT" and path == _TOKEN_PATH:
        return _token(ask, name, tokens, now)
    if ask.method not in ("GET", "HEAD"):
        return Answer.page(405)
    left = tokens.left(name, ask.headers.get(TOKEN_HEADER, ""), now)
    if left is None:
        return Answer.page(401)
    found = None if instance is None else await _look_up(path, instance)
    if found is None:
        return Answer.page(404)
    return Answer(found.status, found.body, found.content_type, {TTL_HEADER: str(left)})


def _token(ask: Ask, name: str, tokens: Tokens, now: float) -> Answer:
    if "x-forwarded-for" in ask.headers:
        # A proxy in the guest that anybody can reach must not fetch tokens for them.
        return Answer.page(403)
    asked = ask.headers.get(TTL_HEADER, "")
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 5):
        return Answer.page(400)
    ttl = int(asked)
    if not 1 <= ttl <= LONGEST_TOKEN:
        return Answer.page(400)
    token = tokens.make(name, ttl, now)
    return Answer(200, token.encode(), headers={TTL_HEADER: asked}, near=True)


async def _look_up(path: str, instance: Instance) -> Answer | None:
    role = instance.role
    texts = {
        "/latest/meta-data": "iam/\nplacement/" if role else "placement/",
        "/latest/meta-data/placement": "availability-zone\nregion",
        "/latest/meta-data/placement/region": instance.region,
        "/latest/meta-data/placement/availability-zone": f"{instance.region}a",
    }
    if role is not None:
        texts |= {
            "/latest/meta-data/iam": "security-credentials/",
            _CREDENTIALS: ROLE_NAME,
        }
        if path == f"{_CREDENTIALS}/{ROLE_NAME}":
            return await _credentials(role)
    text = texts.get(path.removesuffix("/"))
    return None if text is None else Answer(200, text.encode())


async def _credentials(role: Role) -> Answer:
    held = await role.current(PATIENCE)
    if held is not None:
        document = {
            "Code": "Success",
            "LastUpdated": _moment(held.issued_at),
            "Type": "AWS-HMAC",
            "AccessKeyId": held.access_key,
            "SecretAccessKey": held.secret_key,
            "Token": held.token,
            "Expiration": _moment(held.expires_at),
        }
    elif role.refused:
        # EC2 answers so where the role does not trust it; SDKs read Code and Message.
        document = {
            "Code": "AssumeRoleUnauthorizedAccess",
            "Message": "The execution role of this MicroVM cannot be assumed.",
        }
    else:
        return Answer.page(503)
    return Answer(200, json.dumps(document, indent=2).encode())


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
