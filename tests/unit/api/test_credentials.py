"""Root keys, keys of users, sessions: who is found, who it is, and what is left after a restart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from microvmd.api.credentials import Identity, KeyRing
from microvmd.control.accounts import Accounts
from microvmd.control.directory import Directory
from microvmd.control.sealing import Sealer
from microvmd.control.sessions import Sessions
from microvmd.control.store import Store
from microvmd.model.caller import Caller, CallerKind
from microvmd.model.errors import AccessDenied
from microvmd.model.policy import ADMINISTRATOR, Asked, Policy
from tests.unit.control.plane import Clock

pytestmark = pytest.mark.anyio

ACCOUNT = "123456789012"
ROOT = Identity("AKIAROOT", "secret", ACCOUNT)
LISTS = '{"Statement": {"Effect": "Allow", "Action": "lambda:List*", "Resource": "*"}}'
READS = '{"Statement": {"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}}'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class MemoryRoles:
    """The roles of a local IAM, by name."""

    def __init__(self, **roles: str) -> None:
        self._roles = roles

    async def policies(self, account: str, role: str) -> tuple[Policy, ...] | None:
        text = self._roles.get(role)
        return None if text is None or account != ACCOUNT else (Policy.parse(text),)


@dataclass
class Office:
    accounts: Accounts
    ring: KeyRing
    clock: Clock

    async def session(self, issuer: str, **changes: object) -> Identity:
        expires = datetime.fromtimestamp(self.clock.now + 3600, UTC)
        name = f"ASIA{len(changes)}{issuer}"
        made = Identity(
            name,
            "hidden",
            ACCOUNT,
            "token",
            expires,
            issuer=issuer,
            **changes,  # type: ignore[arg-type]
        )
        await self.ring.learn(made)
        return made

    async def caller(self, identity: Identity) -> Caller:
        return await self.ring.caller(identity, datetime.fromtimestamp(self.clock.now, UTC))

    async def may(self, identity: Identity, *actions: str) -> list[str]:
        """Those of the actions that are allowed."""
        caller = await self.caller(identity)
        allowed = []
        for action in actions:
            try:
                caller.require(Asked(action, "*", {}))
            except AccessDenied:
                continue
            allowed.append(action)
        return allowed


@asynccontextmanager
async def office(directory: Path, **roles: str) -> AsyncIterator[Office]:
    clock = Clock()
    async with Store.at(directory / "state.db") as store:
        sealer = Sealer(b"k" * 32)
        found = Directory(sealer)
        accounts = Accounts(store, found, clock)
        await accounts.open(ACCOUNT)
        sessions = Sessions(store, sealer, clock)
        await sessions.open()
        fallback = (Policy.parse(READS),)
        ring = KeyRing([ROOT], found, sessions, MemoryRoles(**roles), fallback, clock)
        yield Office(accounts, ring, clock)


async def test_root_may_everything(tmp_path: Path) -> None:
    async with office(tmp_path) as o:
        assert await o.ring.find("AKIAROOT") == ROOT
        caller = await o.caller(ROOT)
        assert (caller.arn, caller.unrestricted) == (f"arn:aws:iam::{ACCOUNT}:root", True)


async def test_a_key_is_its_users(tmp_path: Path) -> None:
    async with office(tmp_path) as o:
        await o.accounts.create_user(ACCOUNT, "eve")
        made = await o.accounts.create_key(ACCOUNT, "eve")
        found = await o.ring.find(made.key.access_key)
        assert found == Identity(made.key.access_key, made.secret, ACCOUNT, user="eve")
        assert await o.may(found, "lambda:ListMicrovms") == []
        await o.accounts.put_policy(ACCOUNT, "eve", "p", LISTS)
        assert await o.may(found, "lambda:ListMicrovms", "lambda:RunMicrovm") == [
            "lambda:ListMicrovms"
        ]
        assert o.accounts.keys(ACCOUNT)[0].last_used_at == o.clock.now
        await o.accounts.revoke_key(ACCOUNT, made.key.access_key)
        assert await o.ring.find(made.key.access_key) is None


async def test_a_session_survives_a_restart_and_ends_with_its_issuer(tmp_path: Path) -> None:
    async with office(tmp_path) as o:
        await o.accounts.create_user(ACCOUNT, "eve")
        key = (await o.accounts.create_key(ACCOUNT, "eve")).key.access_key
        session = await o.session(key, user="eve")
    assert b"hidden" not in (tmp_path / "state.db").read_bytes()
    async with office(tmp_path) as o:
        assert await o.ring.find(session.access_key) == session
        assert (await o.caller(session)).kind is CallerKind.USER
        await o.accounts.revoke_key(ACCOUNT, key)
        assert await o.ring.find(session.access_key) is None


async def test_a_session_does_not_replace_a_key(tmp_path: Path) -> None:
    async with office(tmp_path) as o:
        expires = datetime.fromtimestamp(o.clock.now + 60, UTC)
        await o.ring.learn(Identity("AKIAROOT", "other", ACCOUNT, "token", expires))
        assert await o.ring.find("AKIAROOT") == ROOT


async def test_a_role_may_what_its_policies_say(tmp_path: Path) -> None:
    async with office(tmp_path, app=LISTS) as o:
        session = await o.session("AKIAROOT", role="app", session_name="s")
        caller = await o.caller(session)
        assert caller.arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/app/s"
        assert await o.may(session, "lambda:ListMicrovms", "s3:GetObject") == [
            "lambda:ListMicrovms"
        ]


async def test_a_role_that_nobody_made_may_little_and_no_more_than_its_issuer(
    tmp_path: Path,
) -> None:
    async with office(tmp_path) as o:
        actions = ("s3:GetObject", "lambda:ListMicrovms", "iam:CreateUser")
        of_root = await o.session("AKIAROOT", role="nobody", session_name="s")
        assert await o.may(of_root, *actions) == ["s3:GetObject"]
        await o.accounts.create_user(ACCOUNT, "eve")
        await o.accounts.put_policy(ACCOUNT, "eve", "p", LISTS)
        key = (await o.accounts.create_key(ACCOUNT, "eve")).key.access_key
        of_eve = await o.session(key, role="nobody", session_name="s")
        assert await o.may(of_eve, *actions) == []


async def test_session_policies_limit_and_never_give(tmp_path: Path) -> None:
    async with office(tmp_path, app=LISTS) as o:
        limited = await o.session(
            "AKIAROOT", role="app", session_name="s", session_policies=(READS,)
        )
        assert await o.may(limited, "lambda:ListMicrovms", "s3:GetObject") == []
        whole = await o.session(
            "AKIAROOT",
            role="app",
            session_name="s",
            session_policies=(ADMINISTRATOR,),
            federated=None,
        )
        assert await o.may(whole, "lambda:ListMicrovms") == ["lambda:ListMicrovms"]


async def test_a_federated_session_needs_a_policy(tmp_path: Path) -> None:
    async with office(tmp_path) as o:
        bare = await o.session("AKIAROOT", federated="bob")
        assert await o.may(bare, "s3:GetObject") == []
        reads = await o.session("AKIAROOT", federated="bob", session_policies=(READS,))
        assert await o.may(reads, "s3:GetObject", "s3:PutObject") == ["s3:GetObject"]
        assert (await o.caller(reads)).arn == f"arn:aws:sts::{ACCOUNT}:federated-user/bob"


def test_a_key_expires_at_its_moment_and_a_lasting_one_never() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    lasting = Identity("AKIA", "secret", "1")
    temporary = Identity("ASIA", "secret", "1", session_token="t", expires_at=moment)
    assert not lasting.expired(moment)
    assert not temporary.expired(moment - timedelta(seconds=1))
    assert temporary.expired(moment)
