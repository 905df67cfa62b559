"""Who may call, wired as ``serve`` does it: from the first start to the next one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from microvmd.api.credentials import Identity
from microvmd.control.sealing import SecretsLocked
from microvmd.control.store import Store
from microvmd.model.policy import ADMINISTRATOR, Asked, Policy, Verdict, evaluate
from microvmd.service.identity import ABSENT_ROLE, identities
from microvmd.service.keys import MASTER_KEY_FILE

pytestmark = pytest.mark.anyio

ACCOUNT = "123456789012"
OPERATOR = Identity("AKIAOPERATOR", "secret", ACCOUNT)
NOW = datetime(2026, 7, 30, tzinfo=UTC)


async def test_keys_and_sessions_are_there_after_a_restart(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    async with Store.at(tmp_path / "state.db") as store:
        async with identities(store, keys, OPERATOR) as who:
            assert [account.account for account in who.accounts.accounts()] == [ACCOUNT]
            await who.accounts.create_user(ACCOUNT, "eve")
            await who.accounts.put_policy(ACCOUNT, "eve", "p", ADMINISTRATOR)
            made = await who.accounts.create_key(ACCOUNT, "eve")
            session = Identity(
                "ASIA", "s", ACCOUNT, "token", datetime(2100, 1, 1, tzinfo=UTC), user="eve"
            )
            await who.ring.learn(session)
            eve = await who.ring.find(made.key.access_key)
            assert eve is not None
            assert (await who.ring.caller(eve, NOW)).unrestricted
        async with identities(store, keys, OPERATOR) as who:
            assert await who.ring.find("AKIAOPERATOR") == OPERATOR
            assert await who.ring.find(made.key.access_key) == eve
            assert await who.ring.find("ASIA") == session
            # Uses that were only in memory were written at the end.
            [key] = who.accounts.keys(ACCOUNT)
            assert key.last_used_at == NOW.timestamp()


async def test_another_master_key_is_told_at_the_start(tmp_path: Path) -> None:
    """A store without its key is not served with half of its callers."""
    keys = tmp_path / "keys"
    async with Store.at(tmp_path / "state.db") as store:
        async with identities(store, keys, OPERATOR) as who:
            await who.accounts.create_user(ACCOUNT, "eve")
            await who.accounts.create_key(ACCOUNT, "eve")
        (keys / MASTER_KEY_FILE).unlink()
        with pytest.raises(SecretsLocked, match=r"restore keys/master\.key from the backup"):
            async with identities(store, keys, OPERATOR):
                pass


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        ("s3:GetObject", Verdict.ALLOWED),
        ("logs:PutLogEvents", Verdict.ALLOWED),
        ("kms:Decrypt", Verdict.ALLOWED),
        ("s3:PutObject", Verdict.NOT_ALLOWED),
        ("s3:DeleteObject", Verdict.NOT_ALLOWED),
        ("iam:CreateRole", Verdict.NOT_ALLOWED),
        ("sts:AssumeRole", Verdict.NOT_ALLOWED),
        ("lambda:RunMicrovm", Verdict.NOT_ALLOWED),
    ],
)
def test_a_role_that_nobody_made_may_what_builds_need(action: str, verdict: Verdict) -> None:
    asked = Asked(action, "arn:aws:s3:::b/k", {})
    assert evaluate([Policy.parse(ABSENT_ROLE)], asked) is verdict
