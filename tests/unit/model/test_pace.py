"""A rate with a burst, at moments that the test names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.pace import Pace


def test_a_burst_is_free_and_what_is_beyond_waits() -> None:
    pace = Pace(rate=10, burst=20)
    assert pace.spend(20, 100.0) == 0
    assert pace.spend(5, 100.0) == 0.5
    assert pace.spend(0, 100.5) == 0
    assert pace.spend(20, 1100.5) == 0, "what was saved beyond the burst is lost"
    assert pace.spend(10, 1100.5) == 1


def test_the_pace_is_free_at_first_and_then_steady() -> None:
    pace = Pace(rate=10, burst=3)
    assert [pace.spend(1, 100.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    assert pace.spend(1, 1000.0) == 0


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50))
def test_who_waits_as_told_keeps_to_the_rate(costs: list[float]) -> None:
    pace = Pace(rate=50, burst=100)
    now = 100.0
    for cost in costs:
        now += pace.spend(cost, now)
    assert sum(costs) <= 100 + 50 * (now - 100.0) + 1e-6
