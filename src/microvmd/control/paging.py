"""Pages of a list, and the opaque signed cursor between them.

A cursor is URL-safe base64 of a position and its MAC: a client can neither read a meaning into it
that we must keep, nor make one up.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from microvmd.model.errors import ValidationError

T = TypeVar("T")

DEFAULT_PAGE = 50
_MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items of one answer; ``next_token`` None = the end."""

    items: Sequence[T]
    next_token: str | None


class Cursors:
    """Seals and opens positions. ``scope`` ties a cursor to one list of one account."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, scope: str, position: str | int) -> str:
        body = json.dumps([scope, position]).encode()
        return base64.urlsafe_b64encode(self._mac(body) + body).decode()

    def open(self, scope: str, token: str | None) -> str | int | None:
        """The position, or None without a token; raise ValidationError for one that is not ours."""
        if token is None:
            return None
        try:
            raw = base64.urlsafe_b64decode(token)
        except (binascii.Error, ValueError):
            raise ValidationError("Invalid nextToken.") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise ValidationError("Invalid nextToken.")
        sealed_scope, position = json.loads(body)
        if sealed_scope != scope or not isinstance(position, str | int):
            raise ValidationError("Invalid nextToken.")
        return position

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)[:_MAC_BYTES]
