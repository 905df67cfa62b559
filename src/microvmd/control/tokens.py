"""Auth tokens of endpoints: who may talk to which ports of one MicroVM, and until when.

A token has the form of AWS's own, a compact JWE (`alg` dir, `enc` A256GCM) with a key id; to
clients it is an opaque string. In the place of the ciphertext stand the claims as they are, and the
tag is the first half of an HMAC-SHA256 of all before it: HAProxy 2.6 loses memory each time that it
opens AES-GCM (docs/decisions/0003). It checks tokens by itself with the keys that `keys()` gives.
A new key is published a while before it is used, and an old one stays for as long as the
longest-lived token (60 minutes) may live.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

Scope = Literal["http", "shell"]

ALL_PORTS = "*"
LONGEST_LIFE = 3600.0
"""Seconds a token may live (`expirationInMinutes` is at most 60)."""
PUBLISH_AHEAD = 60.0
"""Seconds between the moment a key is published and the first token that it makes."""
ROTATE_AFTER = 24 * 3600.0
_SLACK = 120.0
_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_SPEC = re.compile(r"\*|\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*")


class InvalidToken(Exception):
    """Not made with a key of ours, damaged, or expired."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says."""

    endpoint_id: str
    ports: str
    scope: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str
    secret: bytes = field(repr=False)
    used_from: float

    @property
    def header(self) -> str:
        """The first part of every token of this key."""
        return _encoded(_json({"kid": self.kid, "alg": "dir", "enc": "A256GCM"}))

    def tag(self, parts: str) -> str:
        """The last part of the token whose other parts these are."""
        return _encoded(hmac.digest(self.secret, parts.encode(), "sha256")[:_TAG_BYTES])


def port_spec(allowed_ports: Iterable[Mapping[str, Any]]) -> str:
    """`allowedPorts` of the API (`port`, `range`, `allPorts`) as "*" or "8080,9000-9100"."""
    parts: list[str] = []
    for item in allowed_ports:
        if "allPorts" in item:
            return ALL_PORTS
        if "port" in item:
            parts.append(_span(item["port"], item["port"]))
        else:
            parts.append(_span(item["range"]["startPort"], item["range"]["endPort"]))
    if not parts:
        raise ValueError("a token needs at least one port")
    return ",".join(parts)


def _span(first: int, last: int) -> str:
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"ports {first}-{last} are not within 1-65535 in order")
    return str(first) if first == last else f"{first}-{last}"


class TokenIssuer:
    """Makes tokens with the newest key that is due; keys are files in `directory` (mode 0600)."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keys = sorted(map(_read, directory.glob("*.token.json")), key=_used_from)
        if not self._keys:
            # Nobody has a token yet and no proxy runs without this key: no need to wait.
            self._make(used_from=clock())

    def issue(
        self,
        endpoint_id: str,
        ports: str,
        expires_at: datetime,
        scope: Scope = "http",
        *,
        vcpus: int = 1,
    ) -> str:
        """A token for one endpoint; `ports` as `port_spec` makes it.

        It says how many processors the MicroVM has, so that HAProxy knows by itself how much one
        endpoint may take, also of one that is SUSPENDED.
        """
        if not _SPEC.fullmatch(ports):
            raise ValueError(f"not a port list: {ports!r}")
        now = self._clock()
        key = next(key for key in reversed(self._keys) if key.used_from <= now)
        claims = {
            "vm": endpoint_id,
            "ports": ports,
            "scope": scope,
            "vcpus": vcpus,
            "iat": int(now),
            "exp": int(expires_at.timestamp()),
        }
        nonce = secrets.token_bytes(_NONCE_BYTES)
        parts = ".".join((key.header, "", _encoded(nonce), _encoded(_json(claims))))
        return f"{parts}.{key.tag(parts)}"

    def verify(self, token: str) -> Claims:
        """For whoever serves a token without HAProxy before it (shell). Raises InvalidToken."""
        try:
            claims = self._opened(token)
            found = Claims(claims["vm"], claims["ports"], claims["scope"], float(claims["exp"]))
        except (binascii.Error, ValueError, KeyError, TypeError) as error:
            raise InvalidToken("not a token of this service") from error
        if found.expires_at <= self._clock():
            raise InvalidToken("the token has expired")
        return found

    def _opened(self, token: str) -> dict[str, Any]:
        parts, _, tag = token.rpartition(".")
        header, _, _, said = parts.split(".")
        key = {key.header: key for key in self._keys}[header]
        if not hmac.compare_digest(key.tag(parts), tag):
            raise ValueError("another tag than ours")
        claims: dict[str, Any] = json.loads(_decoded(said))
        return claims

    def keys(self) -> dict[str, str]:
        """Secrets (base64) by token header, for the edge: in use, of old tokens, and the next."""
        return {key.header: base64.b64encode(key.secret).decode() for key in self._keys}

    def rotate(self, *, after: float = ROTATE_AFTER) -> bool:
        """Make the next key when the newest is `after` seconds old; drop keys no token can need.

        Call it now and then (each minute will do). True when `keys()` changed.
        """
        now = self._clock()
        before = self.keys()
        if now - self._keys[-1].used_from >= after:
            self._make(used_from=now + PUBLISH_AHEAD)
        while len(self._keys) > 1 and self._keys[1].used_from + LONGEST_LIFE + _SLACK < now:
            old = self._keys.pop(0)
            (self._directory / f"{old.kid}.token.json").unlink(missing_ok=True)
        return self.keys() != before

    def _make(self, *, used_from: float) -> None:
        key = _Key(secrets.token_hex(8), secrets.token_bytes(_KEY_BYTES), used_from)
        path = self._directory / f"{key.kid}.token.json"
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            content = {"kid": key.kid, "secret": _encoded(key.secret), "usedFrom": used_from}
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        self._keys.append(key)


def _read(path: Path) -> _Key:
    content = json.loads(path.read_text())
    return _Key(content["kid"], _decoded(content["secret"]), content["usedFrom"])


def _used_from(key: _Key) -> float:
    return key.used_from


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    """Strictly what `_encoded` makes: one spelling for each content."""
    content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encoded(content) != text:
        raise ValueError("not the spelling that we write")
    return content
