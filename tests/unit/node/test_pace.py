"""A rate with a burst, by a clock that the test turns."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.pace import Pace


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_free_and_what_is_beyond_waits() -> None:
    clock = Clock()
    pace = Pace(rate=10, burst=20, clock=clock)
    assert pace.spend(20) == 0
    assert pace.spend(5) == 0.5
    clock.now += 0.5
    assert pace.spend(0) == 0
    clock.now += 1000
    assert pace.spend(20) == 0, "what was saved beyond the burst is lost"
    assert pace.spend(10) == 1


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50))
def test_who_waits_as_told_keeps_to_the_rate(costs: list[float]) -> None:
    clock = Clock()
    pace = Pace(rate=50, burst=100, clock=clock)
    for cost in costs:
        clock.now += pace.spend(cost)
    assert sum(costs) <= 100 + 50 * (clock.now - 100.0) + 1e-6
