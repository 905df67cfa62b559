"""Names that are taken, and the life of a key."""

from dataclasses import replace

import pytest

from microvmd.model.account import (
    LONGEST_OVERLAP_S,
    AccessKey,
    KeyState,
    User,
    check_account,
    check_account_name,
    check_policy_name,
    check_user_name,
)
from microvmd.model.errors import Conflict, ValidationError

KEY = AccessKey("AKIA", "123456789012", "eve", "sealed", 100.0)


def test_a_rotated_key_ends_after_the_overlap() -> None:
    old = KEY.rotated(200.0, 50.0)
    assert [old.state(now) for now in (200.0, 249.9, 250.0)] == [
        KeyState.ENDING,
        KeyState.ENDING,
        KeyState.ENDED,
    ]
    assert KEY.rotated(200.0, 0.0).state(200.0) is KeyState.ENDED
    assert KEY.state(1e12) is KeyState.ACTIVE


def test_a_key_is_rotated_once() -> None:
    with pytest.raises(Conflict):
        replace(KEY, ends_at=300.0).rotated(200.0, 1.0)


@pytest.mark.parametrize("overlap", [-1.0, LONGEST_OVERLAP_S + 1, float("nan")])
def test_no_endless_overlap(overlap: float) -> None:
    with pytest.raises(ValidationError):
        KEY.rotated(200.0, overlap)


def test_arn() -> None:
    assert User("123456789012", "eve", 0.0).arn == "arn:aws:iam::123456789012:user/eve"


def test_names() -> None:
    assert check_account("000000000000") == "000000000000"
    assert check_account_name("Team A") == "Team A"
    assert check_user_name("eve@example.com") == "eve@example.com"
    assert check_policy_name("p" * 128)
    for check, bad in (
        (check_account, "12345678901"),
        (check_account, "12345678901a"),
        (check_account_name, ""),
        (check_account_name, " a"),
        (check_user_name, "a/b"),
        (check_user_name, "a\n"),
        (check_policy_name, "p" * 129),
    ):
        with pytest.raises(ValidationError):
            check(bad)
