"""Rows of identities: what is removed takes its own along and nothing of others."""

from pathlib import Path

import pytest

from microvmd.control.store import Store, Transaction
from microvmd.model.account import AccessKey, Account, User

pytestmark = pytest.mark.anyio


async def test_a_user_goes_with_keys_and_policies(tmp_path: Path) -> None:
    def write(tx: Transaction) -> None:
        rows = tx.identities
        for account in ("1", "2"):
            rows.add_account(Account(account, f"account {account}", 1.0))
            rows.add_user(User(account, "eve", 1.0))
            rows.add_key(AccessKey(f"AKIA{account}", account, "eve", "sealed", 1.0))
            rows.put_policy(account, "eve", "p", "old")
            rows.put_policy(account, "eve", "p", "{}")
        rows.save_key(AccessKey("AKIA2", "2", "eve", "ignored", 9.0, 5.0, 6.0))
        rows.remove_user("1", "eve")

    async with Store.at(tmp_path / "state.db") as store:
        await store.run(write)
        assert await store.run(lambda tx: tx.identities.users()) == [User("2", "eve", 1.0)]
        assert await store.run(lambda tx: tx.identities.access_keys()) == [
            AccessKey("AKIA2", "2", "eve", "sealed", 1.0, 5.0, 6.0)
        ]
        assert await store.run(lambda tx: tx.identities.policies()) == [("2", "eve", "p", "{}")]
        assert len(await store.run(lambda tx: tx.identities.accounts())) == 2


async def test_sessions_by_their_end(tmp_path: Path) -> None:
    def write(tx: Transaction) -> None:
        for name, ends in (("late", 30.0), ("soon", 20.0), ("over", 10.0)):
            tx.identities.add_session(name, "1", ends, f"sealed {name}")

    async with Store.at(tmp_path / "state.db") as store:
        await store.run(write)
        assert await store.run(lambda tx: tx.identities.sessions(10.0)) == [
            ("soon", "1", 20.0, "sealed soon"),
            ("late", "1", 30.0, "sealed late"),
        ]
        await store.run(lambda tx: tx.identities.remove_sessions("late", until=10.0))
        found = await store.run(lambda tx: tx.identities.sessions(0.0))
        assert [row[0] for row in found] == ["soon"]
