"""Accounts, users, policies and keys: decided, durable, and in force at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from microvmd.control.accounts import ADMINISTRATOR_NAME, Accounts
from microvmd.control.directory import Directory
from microvmd.control.sealing import Sealer, SecretsLocked
from microvmd.control.store import Store
from microvmd.model.account import KEYS_OF_A_USER, POLICIES_OF_A_USER, KeyState
from microvmd.model.errors import Conflict, NotFound, QuotaExceeded, ValidationError
from microvmd.model.policy import ADMINISTRATOR, MalformedPolicy
from tests.unit.control.plane import ACCOUNT, Clock

pytestmark = pytest.mark.anyio

OTHER = "111122223333"


@asynccontextmanager
async def opened(
    directory: Path, clock: Clock, key: bytes = b"k" * 32
) -> AsyncIterator[tuple[Accounts, Directory]]:
    async with Store.at(directory / "state.db") as store:
        found = Directory(Sealer(key))
        accounts = Accounts(store, found, clock)
        await accounts.open(ACCOUNT)
        yield accounts, found


async def test_an_account_has_an_administrator(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as (accounts, directory):
        account, key = await accounts.create_account("team b", OTHER)
        assert (account.account, account.name) == (OTHER, "team b")
        assert [a.name for a in accounts.accounts()] == ["default", "team b"]
        assert accounts.policies(OTHER, "admin") == {ADMINISTRATOR_NAME: ADMINISTRATOR}
        assert directory.secret(key.key) == key.secret
        assert (len(key.key.access_key), len(key.secret)) == (20, 40)
        drawn, _ = await accounts.create_account("team c")
        assert drawn.account not in (ACCOUNT, OTHER)
        for name, number in (("team b", None), ("x", OTHER), ("x", ACCOUNT)):
            with pytest.raises(Conflict):
                await accounts.create_account(name, number)


async def test_everything_survives_a_restart_sealed(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as (accounts, directory):
        await accounts.create_user(ACCOUNT, "eve")
        await accounts.put_policy(ACCOUNT, "eve", "p", ADMINISTRATOR)
        made = await accounts.create_key(ACCOUNT, "eve")
        directory.used(made.key.access_key, 1234.0)
        await accounts.tidy()
    assert made.secret.encode() not in (tmp_path / "state.db").read_bytes()
    async with opened(tmp_path, clock) as (accounts, directory):
        key = directory.key(made.key.access_key, clock.now)
        assert key is not None
        assert (directory.secret(key), key.last_used_at) == (made.secret, 1234.0)
        assert [user.name for user in accounts.users(ACCOUNT)] == ["eve"]
        assert accounts.policies(ACCOUNT, "eve") == {"p": ADMINISTRATOR}
        assert len(directory.policies_of(ACCOUNT, "eve")) == 1
    with pytest.raises(SecretsLocked):
        async with opened(tmp_path, clock, b"o" * 32):
            pass


async def test_a_rotated_key_ends_after_the_overlap(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as (accounts, directory):
        await accounts.create_user(ACCOUNT, "eve")
        first = (await accounts.create_key(ACCOUNT, "eve")).key.access_key
        clock.now += 1
        made, old = await accounts.rotate_key(ACCOUNT, first, 60.0)
        assert (made.key.user, old.ends_at) == ("eve", clock.now + 60)
        assert directory.key(first, clock.now) is not None
        with pytest.raises(Conflict):
            await accounts.rotate_key(ACCOUNT, first)
        clock.now += 60
        assert directory.key(first, clock.now) is None
        assert [k.state(clock.now) for k in accounts.keys(ACCOUNT)] == [
            KeyState.ENDED,
            KeyState.ACTIVE,
        ]
        await accounts.tidy()
        assert [key.access_key for key in accounts.keys(ACCOUNT)] == [made.key.access_key]
    async with opened(tmp_path, clock) as (accounts, _):
        assert [key.access_key for key in accounts.keys(ACCOUNT)] == [made.key.access_key]


async def test_a_revoked_key_and_those_of_a_deleted_user_are_gone_at_once(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as (accounts, directory):
        await accounts.create_user(ACCOUNT, "eve")
        one, two = [(await accounts.create_key(ACCOUNT, "eve")).key.access_key for _ in range(2)]
        await accounts.revoke_key(ACCOUNT, one)
        assert directory.key(one, clock.now) is None
        assert directory.key(two, clock.now) is not None
        await accounts.delete_user(ACCOUNT, "eve")
        assert directory.key(two, clock.now) is None
    async with opened(tmp_path, clock) as (accounts, directory):
        assert accounts.keys(ACCOUNT) == []
        await accounts.create_user(ACCOUNT, "eve")
        assert directory.policies_of(ACCOUNT, "eve") == ()


async def test_what_another_account_has_does_not_exist(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as (accounts, _):
        _, key = await accounts.create_account("b", OTHER)
        for name in (key.key.access_key, "AKIANOBODY"):
            with pytest.raises(NotFound, match=f"account {ACCOUNT} has no access key {name}"):
                await accounts.revoke_key(ACCOUNT, name)
            with pytest.raises(NotFound):
                await accounts.rotate_key(ACCOUNT, name)
        for call in (
            accounts.create_key(ACCOUNT, "admin"),
            accounts.delete_user(ACCOUNT, "admin"),
            accounts.put_policy(ACCOUNT, "admin", "p", ADMINISTRATOR),
            accounts.create_user("999999999999", "x"),
        ):
            with pytest.raises(NotFound):
                await call


async def test_limits_and_bad_input(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as (accounts, _):
        await accounts.create_user(ACCOUNT, "eve")
        with pytest.raises(Conflict):
            await accounts.create_user(ACCOUNT, "eve")
        with pytest.raises(ValidationError):
            await accounts.create_user(ACCOUNT, "a/b")
        with pytest.raises(MalformedPolicy):
            await accounts.put_policy(ACCOUNT, "eve", "p", "{")
        assert accounts.policies(ACCOUNT, "eve") == {}
        for number in range(POLICIES_OF_A_USER):
            await accounts.put_policy(ACCOUNT, "eve", f"p{number}", ADMINISTRATOR)
        await accounts.put_policy(ACCOUNT, "eve", "p0", ADMINISTRATOR)
        with pytest.raises(QuotaExceeded):
            await accounts.put_policy(ACCOUNT, "eve", "more", ADMINISTRATOR)
        await accounts.remove_policy(ACCOUNT, "eve", "p0")
        with pytest.raises(NotFound):
            await accounts.remove_policy(ACCOUNT, "eve", "p0")
        for _ in range(KEYS_OF_A_USER):
            await accounts.create_key(ACCOUNT, "eve")
        with pytest.raises(QuotaExceeded):
            await accounts.create_key(ACCOUNT, "eve")
