"""The directory alone: what it answers from memory."""

from dataclasses import replace

from microvmd.control.directory import Directory
from microvmd.control.sealing import Sealer
from microvmd.model.account import AccessKey
from microvmd.model.policy import ADMINISTRATOR, Policy

SEALER = Sealer(b"k" * 32)
KEY = AccessKey("AKIA", "1", "eve", SEALER.seal("secret", "AKIA"), 10.0)


def test_uses_are_collected_and_written_once() -> None:
    directory = Directory(SEALER)
    directory.put_key(KEY)
    for now in (20.0, 30.0):
        directory.used("AKIA", now)
    directory.used("AKIANOBODY", 30.0)
    assert directory.taken_uses() == [replace(KEY, last_used_at=30.0)]
    assert directory.taken_uses() == []
    directory.used("AKIA", 40.0)
    directory.remove_keys(["AKIA"])
    assert directory.taken_uses() == []


def test_users_of_one_name_in_two_accounts_are_two() -> None:
    directory = Directory(SEALER)
    other = replace(KEY, access_key="AKIB", account="2")
    directory.put_key(KEY)
    directory.put_key(other)
    directory.put_policy(("1", "eve"), "p", ADMINISTRATOR, Policy.parse(ADMINISTRATOR))
    assert directory.keys_of("2", "eve") == [other]
    assert directory.policies_of("2", "eve") == ()
    directory.remove_user(("2", "eve"))
    assert directory.keys_of("1") == [KEY]
    assert directory.keys_of("2") == []
    assert len(directory.policies_of("1", "eve")) == 1
