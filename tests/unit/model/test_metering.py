"""Meters: every second is counted once, in its hour, whenever they are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.metering import HOUR_S, Meter, Prices, Usage
from microvmd.model.microvm import Phase

PHASES = st.sampled_from([phase for phase in Phase if phase is not Phase.TERMINATED])


def _total(meter: Meter, now: float) -> Usage:
    return sum((used for _, used in meter.read(now)), Usage())


@pytest.mark.parametrize(
    ("phase", "wanted"),
    [
        (Phase.PENDING, Usage()),
        (Phase.RUNNING, Usage(running_s=10, vcpu_s=2.5, memory_gb_s=5)),
        (Phase.SUSPENDING, Usage(running_s=10, vcpu_s=2.5, memory_gb_s=5)),
        (Phase.SUSPENDED, Usage(suspended_s=10, stored_gb_s=20)),
        (Phase.RESUMING, Usage(suspended_s=10, stored_gb_s=20)),
        (Phase.TERMINATING, Usage()),
    ],
)
def test_what_a_phase_uses(phase: Phase, wanted: Usage) -> None:
    assert _total(Meter(phase, 100.0, 512, 2 << 30), 110.0) == wanted


def test_hours_are_cut_at_their_borders() -> None:
    meter = Meter(Phase.RUNNING, HOUR_S - 10.0, 2048)
    hours = list(meter.read(2 * HOUR_S + 5.0))
    assert [hour for hour, _ in hours] == [0, HOUR_S, 2 * HOUR_S]
    assert [used.running_s for _, used in hours] == [10, HOUR_S, 5]


@given(
    start=st.floats(0, 1e6),
    steps=st.lists(st.tuples(PHASES, st.floats(0, 20_000)), max_size=8),
)
def test_reading_in_between_changes_no_sum(start: float, steps: list[tuple[Phase, float]]) -> None:
    meter = Meter(Phase.PENDING, start, 2048)
    now, running, suspended, read = start, 0.0, 0.0, Usage()
    for phase, seconds in steps:
        meter = meter.turned(phase, now, stored_bytes=1 << 30)
        half = now + seconds / 2
        read += _total(meter, half)
        meter = meter.turned(phase, half, stored_bytes=1 << 30)
        now += seconds
        read += _total(meter, now)
        running += seconds * (phase in (Phase.RUNNING, Phase.SUSPENDING))
        suspended += seconds * (phase in (Phase.SUSPENDED, Phase.RESUMING))
    assert read.running_s == pytest.approx(running, abs=1e-3)
    assert read.suspended_s == pytest.approx(suspended, abs=1e-3)
    assert read.stored_gb_s == pytest.approx(suspended, abs=1e-3)


def test_a_clock_that_goes_backwards_counts_nothing_twice() -> None:
    meter = Meter(Phase.RUNNING, 100.0, 512)
    assert _total(meter, 90.0) == Usage()
    assert meter.turned(Phase.RUNNING, 90.0).at == 100.0


def test_the_price_of_an_hour_at_aws() -> None:
    """A MicroVM of 2 GiB that runs for an hour: 1 vCPU and 2 GB all the time."""
    used = Usage.running(HOUR_S, 2048)
    assert Prices().cost(used) == pytest.approx(0.0276944e-3 * 3600 + 2 * 0.0036667e-3 * 3600)
    gb = 1 << 30
    moved = Usage(read_bytes=gb, written_bytes=2 * gb, stored_gb_s=HOUR_S * 3.0)
    assert Prices(0, 0, 10, 100, 1000).cost(moved) == 100 + 20 + 3000
