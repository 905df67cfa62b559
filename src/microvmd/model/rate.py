"""How often an account may call an operation: a token bucket, and the queue of those who wait.

Recorded: the real service answers a burst beyond its rate not with ThrottlingException but later.
So a call that finds no token waits for one, in the order of arrival, and only a call whose turn
would come later than the longest wait is refused, at once. Nothing here reads a clock: ``now`` is
in seconds of one that never goes back.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from microvmd.model.errors import Throttled

_TINY = 1e-9
"""Below this a part of a token, or of a second, is an error of floating point numbers."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_second`` calls, as many in a burst (one at least), each after ``longest_wait`` s."""

    per_second: float
    longest_wait: float = 0.0

    @property
    def burst(self) -> float:
        return max(1.0, self.per_second)


@dataclass(slots=True)
class Bucket:
    """The tokens of one account for one operation at the moment ``at``; full when new."""

    rate: Rate
    at: float
    level: float = field(init=False)
    waiting: dict[int, None] = field(default_factory=dict)
    """Tickets, the longest waiting first; a dict because any of them may leave."""
    _issued: int = 0

    def __post_init__(self) -> None:
        self.level = self.rate.burst

    def ask(self, now: float) -> int | None:
        """Take a token (None), or a ticket that ``release`` will name. Raises Throttled."""
        self._fill(now)
        if not self.waiting and self.level >= 1 - _TINY:
            self.level -= 1
            return None
        wait = self.wait(now)
        longest = self.rate.longest_wait
        if wait > longest + _TINY:
            raise Throttled("Rate exceeded", retry_after=max(1, math.ceil(wait - longest - _TINY)))
        self._issued += 1
        self.waiting[self._issued] = None
        return self._issued

    def wait(self, now: float) -> float:
        """Seconds after which one who asks now has a token, if nobody leaves the queue."""
        self._fill(now)
        return max(0.0, (len(self.waiting) + 1 - self.level) / self.rate.per_second)

    def release(self, now: float) -> list[int]:
        """The tickets whose turn has come; each has its token and waits no more."""
        self._fill(now)
        released = []
        while self.waiting and self.level >= 1 - _TINY:
            ticket = next(iter(self.waiting))
            del self.waiting[ticket]
            self.level -= 1
            released.append(ticket)
        return released

    def next_release(self, now: float) -> float | None:
        """Seconds until the first in the queue has a token; None when nobody waits."""
        if not self.waiting:
            return None
        self._fill(now)
        return max(0.0, (1 - self.level) / self.rate.per_second)

    def leave(self, ticket: int, now: float) -> None:
        """Whoever held the ticket does not call: it waits no more, or its token comes back."""
        self._fill(now)
        if ticket in self.waiting:
            del self.waiting[ticket]
        else:
            self.level = min(self.rate.burst, self.level + 1)

    def idle(self, now: float) -> bool:
        """As a new one is: nothing is lost when it is forgotten."""
        self._fill(now)
        return not self.waiting and self.level >= self.rate.burst

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self.at)
        self.level = min(self.rate.burst, self.level + passed * self.rate.per_second)
        self.at = max(self.at, now)


RATES: Mapping[str, float] = {
    "RunMicrovm": 5,
    "SuspendMicrovm": 2,
    "ResumeMicrovm": 5,
    "TerminateMicrovm": 10,
    "GetMicrovm": 100,
    "CreateMicrovmAuthToken": 50,
    "CreateMicrovmShellAuthToken": 5,
}
"""Calls per second and account of the real service (reference, section 3.3)."""
OTHERS = 100.0
"""Of every operation whose rate is not known: ours."""
LONGEST_WAIT_S = 10.0
"""Twenty RunMicrovm at once all succeed: the last one has its token after 3 s."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Calls per second by operation name; 0 is no limit."""

    by_operation: Mapping[str, float] = field(default_factory=lambda: dict(RATES))
    others: float = OTHERS
    longest_wait: float = LONGEST_WAIT_S

    def of(self, operation: str) -> Rate | None:
        """None when it is not limited."""
        per_second = self.by_operation.get(operation, self.others)
        return Rate(per_second, self.longest_wait) if per_second > 0 else None
