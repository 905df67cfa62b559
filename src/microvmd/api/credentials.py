"""Who may sign: access keys, their secrets and the account they belong to."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

_SESSIONS = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """One access key. ``session_token`` and ``expires_at`` are set for temporary ones."""

    access_key: str
    secret_key: str = field(repr=False)
    account: str
    session_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None


class Credentials(Protocol):
    """Where the API looks a signer up."""

    async def find(self, access_key: str) -> Identity | None:
        """Return the identity of an access key, or None when nobody has it."""
        ...

    async def learn(self, identity: Identity) -> None:
        """Remember temporary credentials that the local STS has just handed out."""
        ...


class KeyRing:
    """Long-term keys given at start, and temporary ones as STS issues them (oldest dropped)."""

    def __init__(self, identities: Iterable[Identity]) -> None:
        self._keys = {identity.access_key: identity for identity in identities}
        self._sessions: OrderedDict[str, Identity] = OrderedDict()

    async def find(self, access_key: str) -> Identity | None:
        """Look among the long-term keys, then among the sessions."""
        return self._keys.get(access_key) or self._sessions.get(access_key)

    async def learn(self, identity: Identity) -> None:
        """Keep a session; a long-term key is never replaced by one."""
        self._sessions[identity.access_key] = identity
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
