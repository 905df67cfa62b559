"""Who may sign: access keys, their secrets and the account they belong to."""

import asyncio
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

SESSIONS = 4096


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
    """Long-term keys given at start, and temporary ones as STS issues them.

    With ``file`` (mode 0600) the temporary ones survive a restart, as the local STS does. Expired
    ones are dropped, and the oldest where they are too many.
    """

    def __init__(self, identities: Iterable[Identity], file: Path | None = None) -> None:
        self._keys = {identity.access_key: identity for identity in identities}
        self._file = file
        self._sessions = {} if file is None else _read(file)
        self._writing = asyncio.Lock()

    async def find(self, access_key: str) -> Identity | None:
        """Look among the long-term keys, then among the sessions."""
        return self._keys.get(access_key) or self._sessions.get(access_key)

    async def learn(self, identity: Identity) -> None:
        """Keep a session; a long-term key is never replaced by one."""
        async with self._writing:
            self._sessions[identity.access_key] = identity
            now = datetime.now(UTC)
            alive = [
                s for s in self._sessions.values() if s.expires_at is None or s.expires_at > now
            ]
            self._sessions = {session.access_key: session for session in alive[-SESSIONS:]}
            if self._file is not None:
                content = json.dumps([_row(session) for session in self._sessions.values()])
                await asyncio.to_thread(_write, self._file, content)


def _expired(session: Identity) -> bool:
    return session.expires_at is not None and session.expires_at <= datetime.now(UTC)


def _row(session: Identity) -> dict[str, Any]:
    expires = session.expires_at
    return asdict(session) | {"expires_at": None if expires is None else expires.isoformat()}


def _read(file: Path) -> dict[str, Identity]:
    if not file.exists():
        return {}
    sessions: dict[str, Identity] = {}
    for row in json.loads(file.read_text()):
        expires = row.pop("expires_at")
        moment = None if expires is None else datetime.fromisoformat(expires)
        session = Identity(**row, expires_at=moment)
        sessions[session.access_key] = session
    return sessions


def _write(file: Path, content: str) -> None:
    temporary = file.with_name(f"{file.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
    temporary.replace(file)
