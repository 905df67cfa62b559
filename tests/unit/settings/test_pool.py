"""What an operator sets for VMMs that wait."""

from microvmd.model.pool import room
from microvmd.settings.pool import PoolSettings


def test_nothing_waits_when_it_is_off() -> None:
    rules = PoolSettings(memory_mib=0).rules(reserve_mib=512, microvm_mib=128)
    assert room(rules, cost_mib=32, taken_mib=0, available_mib=100_000) == 0


def test_what_waits_leaves_room_for_microvms() -> None:
    rules = PoolSettings(per_version=2).rules(reserve_mib=512, microvm_mib=128)
    assert rules.spare_mib == 768
    assert room(rules, cost_mib=32, taken_mib=0, available_mib=767 + 32) == 0
    assert room(rules, cost_mib=32, taken_mib=0, available_mib=768 + 32) == 1


def test_whether_guests_wait_is_handed_on() -> None:
    assert PoolSettings().rules(reserve_mib=512, microvm_mib=128).restored is None
    assert PoolSettings(restored=False).rules(reserve_mib=512, microvm_mib=128).restored is False
