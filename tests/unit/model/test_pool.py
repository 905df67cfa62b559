"""VMMs wait where they were missed, and never beyond the budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.pool import PoolRules, plan, recent, room, wanted

RULES = PoolRules(memory_mib=128, most=4, keep_s=100.0, burst_s=2.0, spare_mib=500)
NOW = 1000.0
TIMES = st.lists(st.floats(min_value=800.0, max_value=NOW), max_size=12)
DEMAND = st.dictionaries(st.integers(0, 9), TIMES, max_size=6)


def test_a_single_start_is_reason_for_one() -> None:
    assert wanted([NOW - 5], NOW, RULES) == 1


def test_a_burst_is_reason_for_as_many() -> None:
    assert wanted([900.0, 950.0, 951.0, 952.0, 990.0], NOW, RULES) == 3


def test_starts_that_are_apart_are_no_burst() -> None:
    assert wanted([930.0, 940.0, 950.0, 960.0], NOW, RULES) == 1


def test_no_version_has_more_than_the_rule() -> None:
    assert wanted([NOW] * 50, NOW, RULES) == RULES.most


def test_demand_is_forgotten() -> None:
    starts = [880.0, 880.5, 950.0]
    assert recent(starts, NOW, RULES) == (950.0,)
    assert wanted(starts, NOW, RULES) == 1
    assert wanted(starts, NOW + 51, RULES) == 0


def test_the_last_asked_for_comes_first_and_nobody_gets_a_second_before_all_have_one() -> None:
    starts = {"old": [950.0] * 4, "new": [990.0] * 4, "middle": [970.0]}
    assert plan(starts, NOW, RULES, 1) == {"new": 1}
    assert plan(starts, NOW, RULES, 2) == {"new": 1, "middle": 1}
    assert plan(starts, NOW, RULES, 5) == {"new": 2, "middle": 1, "old": 2}


def test_room_is_the_budget_or_what_the_machine_can_spare() -> None:
    assert room(RULES, cost_mib=32, taken_mib=0, available_mib=9000) == 4
    assert room(RULES, cost_mib=32, taken_mib=0, available_mib=564) == 2
    assert room(RULES, cost_mib=32, taken_mib=64, available_mib=500) == 2, "they are there already"
    assert room(RULES, cost_mib=32, taken_mib=64, available_mib=300) == 0, "they give way"
    assert room(PoolRules(), cost_mib=32, taken_mib=0, available_mib=9000) == 0, "off"


@given(DEMAND, st.integers(0, 30))
def test_what_is_planned_is_wanted_and_has_room(demand: dict[int, list[float]], most: int) -> None:
    planned = plan(demand, NOW, RULES, most)
    assert sum(planned.values()) <= most
    for key, count in planned.items():
        assert 1 <= count <= wanted(demand[key], NOW, RULES)


@given(DEMAND, st.integers(0, 30))
def test_less_than_wanted_means_that_the_room_is_full(
    demand: dict[int, list[float]], most: int
) -> None:
    planned = plan(demand, NOW, RULES, most)
    wants = {key: wanted(times, NOW, RULES) for key, times in demand.items()}
    assert sum(planned.values()) == min(most, sum(wants.values()))


@given(DEMAND, st.integers(0, 30))
def test_more_room_takes_nothing_away(demand: dict[int, list[float]], most: int) -> None:
    less, more = plan(demand, NOW, RULES, most), plan(demand, NOW, RULES, most + 1)
    assert all(more.get(key, 0) >= count for key, count in less.items())


@given(TIMES, st.floats(min_value=0, max_value=300))
def test_without_new_starts_demand_only_falls(times: list[float], later: float) -> None:
    assert wanted(times, NOW + later, RULES) <= wanted(times, NOW, RULES)


@pytest.mark.parametrize(
    ("restored", "kvm", "stops_clocks", "restores"),
    [
        (None, True, True, True),
        (None, False, True, False),
        (None, True, False, False),
        (False, True, True, False),
        (True, False, False, True),
    ],
)
def test_guests_wait_where_that_saves_time_and_no_clock_goes_on(
    restored: bool | None, kvm: bool, stops_clocks: bool, restores: bool
) -> None:
    rules = PoolRules(restored=restored)
    assert rules.restores(kvm=kvm, stops_clocks=stops_clocks) is restores
