"""Auth tokens of endpoints: who may talk to which ports of one MicroVM, and until when.

A token is a compact JWS (HS256) with a key id; to clients it is an opaque string, as AWS's own is.
HAProxy verifies it by itself with the keys that `keys()` gives. A new key is published a while
before it signs, and an old one stays for as long as the longest-lived token (60 minutes) may live.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey

Scope = Literal["http", "shell"]

ALL_PORTS = "*"
LONGEST_LIFE = 3600.0
"""Seconds a token may live (`expirationInMinutes` is at most 60)."""
PUBLISH_AHEAD = 60.0
"""Seconds between the moment a key is published and the first token that it signs."""
ROTATE_AFTER = 24 * 3600.0
_SLACK = 120.0
_SPEC = re.compile(r"\*|\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*")


class InvalidToken(Exception):
    """Not signed by a key of ours, damaged, or expired."""


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
    secret: str
    signs_from: float


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
    """Signs tokens with the newest key that is due; keys are files in `directory` (mode 0600)."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keys = sorted(map(_read, directory.glob("*.token.json")), key=_signs_from)
        if not self._keys:
            # Nobody has a token yet and no proxy runs without this key: no need to wait.
            self._make(signs_from=clock())

    def issue(
        self, endpoint_id: str, ports: str, expires_at: datetime, scope: Scope = "http"
    ) -> str:
        """A token for one endpoint; `ports` as `port_spec` makes it."""
        if not _SPEC.fullmatch(ports):
            raise ValueError(f"not a port list: {ports!r}")
        now = self._clock()
        key = next(key for key in reversed(self._keys) if key.signs_from <= now)
        claims = {
            "vm": endpoint_id,
            "ports": ports,
            "scope": scope,
            "iat": int(now),
            "exp": int(expires_at.timestamp()),
        }
        return jwt.encode({"alg": "HS256", "kid": key.kid}, claims, _oct(key))

    def verify(self, token: str) -> Claims:
        """For whoever serves a token without HAProxy before it (shell). Raises InvalidToken."""
        try:
            key_set = KeySet([_oct(key) for key in self._keys])
            claims = jwt.decode(token, key_set, algorithms=["HS256"]).claims
            found = Claims(claims["vm"], claims["ports"], claims["scope"], float(claims["exp"]))
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise InvalidToken("not a token of this service") from error
        if found.expires_at <= self._clock():
            raise InvalidToken("the token has expired")
        return found

    def keys(self) -> dict[str, str]:
        """Secrets by key id, for the edge: those in use, still in use by old tokens, and next."""
        return {key.kid: key.secret for key in self._keys}

    def rotate(self, *, after: float = ROTATE_AFTER) -> bool:
        """Make the next key when the newest is `after` seconds old; drop keys no token can need.

        Call it now and then (each minute will do). True when `keys()` changed.
        """
        now = self._clock()
        before = self.keys()
        if now - self._keys[-1].signs_from >= after:
            self._make(signs_from=now + PUBLISH_AHEAD)
        while len(self._keys) > 1 and self._keys[1].signs_from + LONGEST_LIFE + _SLACK < now:
            old = self._keys.pop(0)
            (self._directory / f"{old.kid}.token.json").unlink(missing_ok=True)
        return self.keys() != before

    def _make(self, *, signs_from: float) -> None:
        key = _Key(secrets.token_hex(8), secrets.token_urlsafe(32), signs_from)
        path = self._directory / f"{key.kid}.token.json"
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"kid": key.kid, "secret": key.secret, "signsFrom": signs_from}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        self._keys.append(key)


def _read(path: Path) -> _Key:
    content = json.loads(path.read_text())
    return _Key(content["kid"], content["secret"], content["signsFrom"])


def _signs_from(key: _Key) -> float:
    return key.signs_from


def _oct(key: _Key) -> OctKey:
    return OctKey.import_key(key.secret, {"kid": key.kid})
