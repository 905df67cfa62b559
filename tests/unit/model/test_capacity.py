"""Room: what is free, less a reserve, less what others were promised and have not taken."""

import pytest

from microvmd.model.capacity import BUILD_MIB, BUILDS_AT_ONCE, CapacityRules, Machine, Share

RULES = CapacityRules(reserve_mib=500, microvm_mib=100, disk_mib=1000)
IDLE = Machine(memory_mib=8000, available_mib=1000, disk_mib=9000, disk_free_mib=1000)


def test_the_last_that_fits() -> None:
    held: list[Share] = []
    asked = RULES.microvm(512)
    while RULES.shortage(IDLE, held, asked) is None:
        held.append(asked)
    assert len(held) == 5, "a burst is counted before any of it has taken memory"
    assert RULES.room_mib(IDLE, held) == 0


def test_what_was_taken_is_no_longer_promised() -> None:
    """It is missing in the machine's free memory already."""
    held = [RULES.microvm(512, taken_mib=taken) for taken in (0, 40, 100, 3000)]
    assert RULES.room_mib(IDLE, held) == 500 - 100 - 60


def test_a_resume_takes_what_it_had() -> None:
    asked = RULES.microvm(512, stored_mib=501)
    shortage = RULES.shortage(IDLE, [], asked)
    assert shortage is not None
    assert "501 MiB of memory are needed and 500 are free" in shortage
    assert RULES.shortage(IDLE, [], RULES.microvm(512, stored_mib=500)) is None
    assert RULES.microvm(512, stored_mib=3).soon_mib == 100


def test_a_build_takes_more() -> None:
    asked = RULES.further_build([], 512)
    assert RULES.builds([512]) == [asked]
    assert asked.soon_mib == BUILD_MIB > RULES.microvm(512).soon_mib
    assert CapacityRules(microvm_mib=9000).further_build([], 512).soon_mib == 9000


def test_a_build_that_waits_for_others_takes_nothing() -> None:
    going = [1024, 2048, 512]
    held = RULES.builds(going)
    assert [share.baseline_mib for share in held] == [2048, 1024]
    assert len(held) == BUILDS_AT_ONCE
    assert RULES.further_build(going, 1024) == Share(0, 0)
    assert RULES.further_build(going, 4096) == Share(4096 - 1024, 0), "it may come before others"
    none_left = Machine(memory_mib=8000, available_mib=0, disk_mib=9000, disk_free_mib=1000)
    assert RULES.shortage(none_left, held, RULES.further_build(going, 1024)) is None
    assert RULES.shortage(none_left, held, RULES.further_build([1024], 512)) is not None


@pytest.mark.parametrize(("free", "refused"), [(999, True), (1000, False)])
def test_disk(free: int, refused: bool) -> None:
    shortage = RULES.shortage(Machine(8000, 8000, 9000, free), [], RULES.microvm(512))
    assert (shortage is not None) == refused
    assert shortage is None or "limits.disk_mib" in shortage


def test_overcommit_bounds_the_baselines() -> None:
    rules = CapacityRules(reserve_mib=0, microvm_mib=1, overcommit=1.5, disk_mib=0)
    held = [rules.microvm(2048)] * 5
    assert rules.shortage(IDLE, held, rules.microvm(1760)) is None
    shortage = rules.shortage(IDLE, held, rules.microvm(1761))
    assert shortage is not None
    assert "limits.overcommit allows 12000" in shortage


def test_a_reserve_beyond_the_machine_lets_nothing_in() -> None:
    rules = CapacityRules(reserve_mib=1 << 30)
    assert rules.shortage(IDLE, [], rules.microvm(512)) is not None
