"""Sessions: kept over a restart, gone when expired, never pushed out by another account."""

from pathlib import Path

import pytest

from microvmd.control import sessions as module
from microvmd.control.sealing import Sealer
from microvmd.control.sessions import Session, Sessions
from microvmd.control.store import Store
from tests.unit.control.plane import ACCOUNT, Clock

pytestmark = pytest.mark.anyio

SEALER = Sealer(b"k" * 32)
OTHER = "111122223333"


def session(name: str, *, account: str = ACCOUNT, ends: float = 2000.0) -> Session:
    return Session(name, account, ends, f"secret of {name}")


async def opened(store: Store, clock: Clock) -> Sessions:
    found = Sessions(store, SEALER, clock)
    await found.open()
    return found


async def test_a_restart_keeps_what_has_not_expired(tmp_path: Path) -> None:
    clock = Clock()
    async with Store.at(tmp_path / "state.db") as store:
        sessions = await opened(store, clock)
        await sessions.add(session("long"))
        await sessions.add(session("short", ends=1500.0))
    assert b"secret of long" not in (tmp_path / "state.db").read_bytes()
    clock.now = 1600.0
    async with Store.at(tmp_path / "state.db") as store:
        sessions = await opened(store, clock)
        assert sessions.find("long") == session("long")
        assert sessions.find("short") is None


async def test_the_oldest_of_the_same_account_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSIONS_OF_AN_ACCOUNT", 2)
    clock = Clock()
    async with Store.at(tmp_path / "state.db") as store:
        sessions = await opened(store, clock)
        await sessions.add(session("other", account=OTHER))
        for name in ("one", "two", "three"):
            await sessions.add(session(name))
        again = await opened(store, clock)
        for found in (sessions, again):
            kept = [n for n in ("other", "one", "two", "three") if found.find(n)]
            assert kept == ["other", "two", "three"]


async def test_expired_ones_go_with_the_next_that_comes(tmp_path: Path) -> None:
    clock = Clock()
    async with Store.at(tmp_path / "state.db") as store:
        sessions = await opened(store, clock)
        await sessions.add(session("short", ends=1500.0))
        clock.now = 1500.0
        assert sessions.find("short") is not None
        await sessions.add(session("next"))
        assert sessions.find("short") is None
