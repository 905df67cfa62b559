"""Sessions of roles: renewal, an STS that is down or refuses, and what a resume gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from microvmd.node import roles
from microvmd.node.roles import (
    LIFETIME,
    RoleCredentials,
    RoleRefused,
    Roles,
    RoleSession,
    RoleUnavailable,
)

pytestmark = pytest.mark.anyio

ROLE = "arn:aws:iam::000000000000:role/app"
START = 1_000_000.0


@dataclass
class Sts:
    """A complete STS in memory; `fails` is what it raises, `gate` holds its answers."""

    now: float = START
    fails: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[tuple[str, str, int]] = field(default_factory=list)
    answered: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()

    async def assume(self, role_arn: str, name: str, lifetime: int) -> RoleCredentials:
        self.calls.append((role_arn, name, lifetime))
        await self.gate.wait()
        self.answered.release()
        if self.fails is not None:
            raise self.fails
        number = len(self.calls)
        return RoleCredentials(f"key-{number}", "s", "t", self.now, self.now + lifetime)


@asynccontextmanager
async def opened(sts: Sts) -> AsyncIterator[Roles]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        yield Roles(sts, tasks, clock=lambda: sts.now)


async def key(session: RoleSession) -> str | None:
    found = await session.current(5)
    return None if found is None else found.access_key


async def test_credentials_are_there_when_they_are_asked_for() -> None:
    sts = Sts()
    async with opened(sts) as made:
        with made.session(ROLE, "microvm-1") as session:
            async with asyncio.timeout(5):
                await sts.answered.acquire()
            assert await key(session) == "key-1"
            assert sts.calls == [(ROLE, "microvm-1", LIFETIME)]


async def test_lazily_nobody_is_asked_before_somebody_needs_them() -> None:
    sts = Sts()
    async with opened(sts) as made:
        with made.session(ROLE, "build", lifetime=900, lazily=True) as session:
            for _ in range(10):
                await asyncio.sleep(0)
            assert sts.calls == []
            assert await key(session) == "key-1"
            assert sts.calls == [(ROLE, "build", 900)]


async def test_they_are_renewed_at_half_of_their_life(monkeypatch: pytest.MonkeyPatch) -> None:
    sts = Sts()
    monkeypatch.setattr(roles, "FIRST_PAUSE", 0.01)
    async with opened(sts) as made:
        with made.session(ROLE, "m", lifetime=0) as session:
            async with asyncio.timeout(5):
                for _ in range(3):
                    await sts.answered.acquire()
            assert session.held() is None, "no life at all"
            assert len(sts.calls) >= 3


async def test_old_ones_are_served_until_they_expire_while_sts_is_down() -> None:
    sts = Sts()
    async with opened(sts) as made:
        with made.session(ROLE, "m") as session:
            assert await key(session) == "key-1"
            sts.fails = RoleUnavailable("down")
            sts.now = START + LIFETIME - 1
            assert await key(session) == "key-1"
            sts.now = START + LIFETIME
            assert await key(session) is None


async def test_a_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "FIRST_PAUSE", 0.01)
    sts = Sts(fails=RoleUnavailable("down"))
    async with opened(sts) as made:
        with made.session(ROLE, "m") as session:
            assert await key(session) is None
            assert not session.refused
            sts.fails = None
            async with asyncio.timeout(5):
                while await key(session) is None:
                    await sts.answered.acquire()


async def test_a_refusal_is_known_as_one() -> None:
    sts = Sts(fails=RoleRefused("no"))
    async with opened(sts) as made:
        with made.session(ROLE, "m") as session:
            assert await key(session) is None
            assert session.refused


async def test_a_guest_waits_a_moment_and_no_longer() -> None:
    sts = Sts()
    sts.gate.clear()
    async with opened(sts) as made:
        with made.session(ROLE, "m") as session:
            assert await session.current(0.01) is None
            sts.gate.set()
            assert await key(session) == "key-1"


async def test_after_a_resume_new_ones_come_before_the_old() -> None:
    sts = Sts()
    async with opened(sts) as made:
        with made.session(ROLE, "m") as session:
            assert await key(session) == "key-1"
        sts.gate.clear()
        with made.session(ROLE, "m") as session:
            asyncio.get_running_loop().call_soon(sts.gate.set)
            assert await key(session) == "key-2"
        sts.fails = RoleUnavailable("down")
        with made.session(ROLE, "m") as session:
            assert await key(session) == "key-2", "better than none"
        with made.session(ROLE, "other") as session:
            assert await key(session) is None, "another guest's are nobody else's"


async def test_credentials_do_not_show_their_secrets() -> None:
    shown = repr(RoleCredentials("ASIA", "hidden-1", "hidden-2", 0, 1))
    assert "ASIA" in shown
    assert "hidden" not in shown
