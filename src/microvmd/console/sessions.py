"""Who is logged in. Kept in memory: a restart of the service ends every session.

A session stands for an access key and knows no rights of its own; it ends with that key. What the
browser holds is a random token, of which only a digest is kept here.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

SESSIONS_OF_A_KEY = 16
SESSIONS = 4096
NOTICES = 8
_TOKEN_BYTES = 32
_AGENT_CHARACTERS = 200


@dataclass(slots=True)
class Notice:
    """Something that the next page tells. ``tone`` is ``good`` or ``bad``."""

    text: str
    tone: str = "good"


@dataclass(slots=True)
class Session:
    """One login. Times are seconds since the epoch."""

    number: str
    """Names the session where it is listed and ended; useless as a credential."""
    access_key: str
    account: str
    principal: str
    """The ARN of who logged in."""
    source: str | None
    agent: str
    created_at: float
    used_at: float
    csrf: str = field(repr=False)
    notices: list[Notice] = field(default_factory=list)

    def notify(self, text: str, tone: str = "good") -> None:
        """Shown once, on the next page."""
        self.notices = [*self.notices[1 - NOTICES :], Notice(text, tone)]

    def taken_notices(self) -> list[Notice]:
        taken, self.notices = self.notices, []
        return taken


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who logs in, and from where."""

    access_key: str
    account: str
    principal: str
    source: str | None = None
    agent: str = ""


class Sessions:
    """All sessions. ``idle_s`` and ``longest_s`` end them; ``clock`` gives wall-clock seconds."""

    def __init__(self, idle_s: float, longest_s: float, clock: Callable[[], float]) -> None:
        self._idle_s = idle_s
        self._longest_s = longest_s
        self._clock = clock
        self._found: dict[bytes, Session] = {}

    def begin(self, visitor: Visitor) -> tuple[str, Session]:
        """The token for the browser, and the session. The longest unused ones make room."""
        self._sweep()
        own = [s for s in self._found.values() if s.access_key == visitor.access_key]
        self._drop_oldest(own, SESSIONS_OF_A_KEY)
        self._drop_oldest(list(self._found.values()), SESSIONS)
        token, now = secrets.token_urlsafe(_TOKEN_BYTES), self._clock()
        session = Session(
            number=secrets.token_hex(6),
            access_key=visitor.access_key,
            account=visitor.account,
            principal=visitor.principal,
            source=visitor.source,
            agent=visitor.agent[:_AGENT_CHARACTERS],
            created_at=now,
            used_at=now,
            csrf=secrets.token_urlsafe(_TOKEN_BYTES),
        )
        self._found[_digest(token)] = session
        return token, session

    def find(self, token: str | None, *, use: bool = True) -> Session | None:
        """The session of a browser. ``use`` False is a page that asks by itself: the session is
        not kept alive by it."""
        session = None if token is None else self._found.get(_digest(token))
        if session is None or self._over(session):
            return None
        if use:
            session.used_at = self._clock()
        return session

    def all(self) -> list[Session]:
        """Those that have not ended, the newest first."""
        self._sweep()
        return sorted(self._found.values(), key=lambda s: s.created_at, reverse=True)

    def end(self, session: Session) -> None:
        """At once: the next request of its browser is a stranger's."""
        self._found = {key: s for key, s in self._found.items() if s is not session}

    def _over(self, session: Session) -> bool:
        now = self._clock()
        idle = now - session.used_at > self._idle_s
        return idle or now - session.created_at > self._longest_s

    def _sweep(self) -> None:
        self._found = {key: s for key, s in self._found.items() if not self._over(s)}

    def _drop_oldest(self, among: list[Session], most: int) -> None:
        for session in sorted(among, key=lambda s: s.used_at)[: max(0, len(among) - most + 1)]:
            self.end(session)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
