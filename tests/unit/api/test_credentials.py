"""Keys that are given, sessions that are learned, and what is left of them after a restart."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from microvmd.api import credentials
from microvmd.api.credentials import Identity, KeyRing

_KEY = Identity("AKIA", "secret", "123456789012")


def _session(number: int, *, minutes: int = 60) -> Identity:
    expires = datetime.now(UTC) + timedelta(minutes=minutes)
    return Identity(f"ASIA{number}", "secret", "123456789012", "hidden", expires)


@pytest.mark.anyio
async def test_sessions_are_found_until_too_many_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "SESSIONS", 2)
    ring = KeyRing([_KEY])
    sessions = [_session(number) for number in range(3)]
    for session in sessions:
        await ring.learn(session)
    assert await ring.find("ASIA0") is None
    assert await ring.find("ASIA2") == sessions[2]
    assert await ring.find("AKIA") == _KEY


@pytest.mark.anyio
async def test_expired_sessions_are_dropped() -> None:
    ring = KeyRing([_KEY])
    await ring.learn(_session(1, minutes=-1))
    await ring.learn(_session(2))
    assert await ring.find("ASIA1") is None


@pytest.mark.anyio
async def test_a_session_does_not_replace_a_key() -> None:
    ring = KeyRing([_KEY])
    await ring.learn(Identity("AKIA", "other", "123456789012", session_token="token"))
    assert await ring.find("AKIA") == _KEY


@pytest.mark.anyio
async def test_sessions_survive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "sessions.json"
    session = _session(1)
    lasting = Identity("ASIA2", "secret", "123456789012", "hidden")
    first = KeyRing([_KEY], file)
    await first.learn(session)
    await first.learn(lasting)
    again = KeyRing([_KEY], file)
    assert (await again.find("ASIA1"), await again.find("ASIA2")) == (session, lasting)
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["sessions.json"]


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(_KEY)
    assert "hidden" not in repr(_session(1))
