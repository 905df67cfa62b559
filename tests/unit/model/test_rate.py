"""The token bucket: never more than its rate, waits that are exact, and refusals that are true."""

from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.errors import Throttled
from microvmd.model.rate import OTHERS, Bucket, Rate, RateLimits

CLOSE = 1e-6
"""Seconds, and parts of a token, that floating point numbers may be off."""


@dataclass
class Queue:
    """Plays the callers of a bucket on a clock of its own, each released when its turn comes."""

    bucket: Bucket
    now: float = 0.0
    calls: list[float] = field(default_factory=list)
    promised: dict[int, float] = field(default_factory=dict)
    waited: dict[int, float] = field(default_factory=dict)
    """How far the release of each ticket was from what the bucket had told its caller."""

    def ask(self) -> int | None:
        wait = self.bucket.wait(self.now)
        ticket = self.bucket.ask(self.now)
        if ticket is None:
            self.calls.append(self.now)
        else:
            self.promised[ticket] = self.now + wait
        return ticket

    def until(self, moment: float) -> None:
        """Let time pass and every turn come when it does."""
        while (wait := self.bucket.next_release(self.now)) is not None:
            if self.now + wait > moment:
                break
            self.now += wait
            for ticket in self.bucket.release(self.now):
                self.calls.append(self.now)
                self.waited[ticket] = self.now - self.promised[ticket]
        self.now = moment

    def check(self) -> None:
        """No stretch of time holds more calls than its length times the rate, and a burst."""
        rate = self.bucket.rate
        for begin, first in enumerate(self.calls):
            for end, last in enumerate(self.calls[begin:], begin):
                assert end - begin + 1 <= (last - first) * rate.per_second + rate.burst + CLOSE


rates = st.builds(Rate, st.floats(0.1, 200), st.sampled_from([0.0, 0.5, 3.0, 10.0]))
steps = st.lists(
    st.tuples(st.floats(0, 2), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=25
)


@given(rates, steps)
def test_never_more_than_the_rate_and_a_burst(
    rate: Rate, steps: list[tuple[float, int, int]]
) -> None:
    """Whoever asks, waits, leaves and asks again: the calls that are let through stay within."""
    queue = Queue(Bucket(rate, 0.0))
    for pause, asking, leaving in steps:
        queue.until(queue.now + pause)
        for _ in range(asking):
            with suppress(Throttled):
                queue.ask()
        for ticket in list(queue.bucket.waiting)[:leaving]:
            queue.bucket.leave(ticket, queue.now)
    queue.until(queue.now + 30)
    queue.check()


@given(rates, st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_waits_are_exact(rate: Rate, pauses: list[float]) -> None:
    """A call that waits is let through after the time that it was told, if nobody leaves."""
    queue = Queue(Bucket(rate, 0.0))
    for pause in pauses:
        queue.until(queue.now + pause)
        try:
            queue.ask()
        except Throttled:
            continue
        assert all(
            when - queue.now <= rate.longest_wait + CLOSE
            for when in (queue.promised[ticket] for ticket in queue.bucket.waiting)
        )
    queue.until(queue.now + rate.longest_wait + 1)
    assert not queue.bucket.waiting
    assert all(abs(off) < CLOSE for off in queue.waited.values())


@given(rates, st.floats(0, 5))
def test_retry_after_is_true(rate: Rate, pause: float) -> None:
    """Who comes back when told is not refused again; a second earlier would have been too soon."""
    queue = Queue(Bucket(rate, 0.0))
    queue.until(pause)
    told = next(filter(None, (_refusal(queue) for _ in range(3000))))
    if told > 1:
        assert queue.bucket.wait(queue.now) - rate.longest_wait > told - 1 - CLOSE
    queue.until(queue.now + told)
    assert _refusal(queue) is None


def _refusal(queue: Queue) -> int | None:
    try:
        queue.ask()
    except Throttled as refused:
        return refused.retry_after
    return None


def test_twenty_at_once_all_have_their_turn() -> None:
    """Recorded: a burst of RunMicrovm is slowed down and not refused."""
    rate = RateLimits().of("RunMicrovm")
    assert rate is not None
    queue = Queue(Bucket(rate, 0.0))
    for _ in range(20):
        queue.ask()
    queue.until(10)
    assert len(queue.calls) == 20
    assert queue.calls[-1] == pytest.approx(3.0)


def test_in_the_order_of_arrival() -> None:
    queue = Queue(Bucket(Rate(1, 10), 0.0))
    tickets = [queue.ask() for _ in range(4)]
    assert tickets == [None, 1, 2, 3]
    assert queue.bucket.release(2.0) == [1], "one token: the bucket holds no more than its burst"
    assert queue.ask() == 4, "nobody passes those who wait"


def test_a_place_that_is_left_goes_to_the_next() -> None:
    queue = Queue(Bucket(Rate(1, 10), 0.0))
    queue.ask()
    first, second = queue.ask(), queue.ask()
    assert first is not None
    assert second is not None
    queue.bucket.leave(first, 0.0)
    assert queue.bucket.release(1.0) == [second]


def test_a_token_that_is_not_used_comes_back() -> None:
    bucket = Bucket(Rate(1, 10), 0.0)
    bucket.ask(0.0)
    ticket = bucket.ask(0.0)
    assert ticket is not None
    assert bucket.release(1.0) == [ticket]
    bucket.leave(ticket, 1.0)
    assert bucket.ask(1.0) is None


def test_a_clock_that_stands_makes_no_tokens() -> None:
    bucket = Bucket(Rate(2), 5.0)
    assert [bucket.ask(5.0), bucket.ask(4.0)] == [None, None]
    with pytest.raises(Throttled):
        bucket.ask(3.0)


def test_idle_is_as_new() -> None:
    bucket = Bucket(Rate(2, 10), 0.0)
    assert bucket.idle(0.0)
    bucket.ask(0.0)
    assert not bucket.idle(0.4)
    assert bucket.idle(0.5)


def test_limits_by_operation() -> None:
    limits = RateLimits({"RunMicrovm": 3.0, "GetMicrovm": 0}, longest_wait=7)
    assert limits.of("RunMicrovm") == Rate(3.0, 7)
    assert limits.of("GetMicrovm") is None
    assert limits.of("ListMicrovms") == Rate(OTHERS, 7)
