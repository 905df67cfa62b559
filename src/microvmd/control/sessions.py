"""Temporary credentials, sealed in the store so that they survive a restart.

Each is a text to this module; what it holds is the API's matter. One account cannot push out the
sessions of another: the oldest of its own make room.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from microvmd.control.sealing import Sealer
from microvmd.control.store import Store, Transaction

SESSIONS_OF_AN_ACCOUNT = 1024


@dataclass(frozen=True, slots=True)
class Session:
    """``content`` holds the secret. ``expires_at`` is in seconds since the epoch."""

    access_key: str
    account: str
    expires_at: float
    content: str = field(repr=False)


class Sessions:
    """All sessions that have not expired, in memory and in the store."""

    def __init__(self, store: Store, sealer: Sealer, clock: Callable[[], float]) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock
        self._found: dict[str, Session] = {}

    async def open(self) -> None:
        """Read what the last process left."""
        rows = await self._store.run(lambda tx: tx.identities.sessions(self._clock()))
        for access_key, account, expires_at, sealed in rows:
            content = self._sealer.open(sealed, access_key)
            self._found[access_key] = Session(access_key, account, expires_at, content)

    def find(self, access_key: str) -> Session | None:
        """Also one that has expired, as long as it is kept: its signer is told so."""
        return self._found.get(access_key)

    async def add(self, session: Session) -> None:
        now = self._clock()
        doomed = self._doomed(session.account, now)
        sealed = self._sealer.seal(session.content, session.access_key)

        def decide(tx: Transaction) -> None:
            tx.identities.remove_sessions(*doomed, session.access_key, until=now)
            tx.identities.add_session(
                session.access_key, session.account, session.expires_at, sealed
            )

        await self._store.run(decide)
        for access_key in doomed:
            self._found.pop(access_key, None)
        self._found[session.access_key] = session

    def _doomed(self, account: str, now: float) -> list[str]:
        """The expired ones of the account, and its oldest where it has too many."""
        own = [session for session in self._found.values() if session.account == account]
        alive = [session for session in own if session.expires_at > now]
        kept = {s.access_key for s in alive[max(0, len(alive) - SESSIONS_OF_AN_ACCOUNT + 1) :]}
        return [session.access_key for session in own if session.access_key not in kept]
