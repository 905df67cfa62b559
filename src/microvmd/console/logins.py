"""The two ways in: an access key with its secret, and a link that is good once."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from microvmd.api.credentials import Credentials, Identity

FAILURES_OF_A_SOURCE = 10
FAILURES_PERIOD_S = 600.0
SOURCES = 4096
LINK_SECONDS = 300.0
LINKS = 256


class Attempts:
    """Counts failed logins by client address; an address with too many waits."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: dict[str, list[float]] = {}

    def wait(self, source: str) -> float:
        """Seconds until this address may try again; 0 when it may."""
        failed = self._recent(source)
        if len(failed) < FAILURES_OF_A_SOURCE:
            return 0.0
        return max(0.0, failed[-FAILURES_OF_A_SOURCE] + FAILURES_PERIOD_S - self._clock())

    def fail(self, source: str) -> None:
        failed = [*self._recent(source), self._clock()]
        self._failed.pop(source, None)
        self._failed[source] = failed[-FAILURES_OF_A_SOURCE:]
        while len(self._failed) > SOURCES:
            del self._failed[next(iter(self._failed))]

    def _recent(self, source: str) -> list[float]:
        since = self._clock() - FAILURES_PERIOD_S
        return [moment for moment in self._failed.get(source, ()) if moment > since]


@dataclass(frozen=True, slots=True)
class _Link:
    access_key: str
    ends_at: float


class Links:
    """One-time links: who has one may log in once as the key that asked for it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: dict[bytes, _Link] = {}

    def make(self, access_key: str) -> str:
        """The token of a new link; the oldest makes room for it."""
        now = self._clock()
        self._found = {key: link for key, link in self._found.items() if link.ends_at > now}
        while len(self._found) >= LINKS:
            del self._found[next(iter(self._found))]
        token = secrets.token_urlsafe(32)
        self._found[_digest(token)] = _Link(access_key, now + LINK_SECONDS)
        return token

    def look(self, token: str) -> str | None:
        """The access key of a link that is still good, which it stays."""
        link = self._found.get(_digest(token))
        return None if link is None or link.ends_at <= self._clock() else link.access_key

    def take(self, token: str) -> str | None:
        """The same; the link is used up."""
        found = self.look(token)
        self._found.pop(_digest(token), None)
        return found


async def identity_of(
    credentials: Credentials, access_key: str, secret_key: str
) -> Identity | None:
    """The long-term key with this secret. A key that nobody has takes the same comparison."""
    found = await credentials.find(access_key)
    expected = secrets.token_urlsafe(30) if found is None else found.secret_key
    same = hmac.compare_digest(expected.encode(), secret_key.encode())
    return found if same and found is not None and found.session_token is None else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
