"""How many VMMs wait for a guest: by demand, within a budget of memory.

A version whose MicroVMs have been started lately gets as many as were started close together, so
that the next such burst finds them all. It has none any more when nobody has asked for a while. All
of a node share one budget: the version that was asked for last comes first, and none gets a second
before each has one.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
MOST_TIMES = 256


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What an operator sets. Sizes are in MiB, times in seconds."""

    memory_mib: int = 0
    """All that waits may take; 0: nothing waits."""
    most: int = 4
    """Of one version."""
    keep_s: float = 300.0
    """For how long after its last start a version has any."""
    burst_s: float = 2.0
    """Starts that are no further apart count as one burst."""
    spare_mib: int = 640
    """Available memory of the machine that what waits does not touch."""
    restored: bool | None = None
    """Whether their guests are restored already and stand still; None: where that saves time."""

    def restores(self, *, kvm: bool, stops_clocks: bool) -> bool:
        """Whether a guest waits inside. With emulation that saves nothing; and one whose clock goes
        on meanwhile would find, when it is let go, that its timers have run out."""
        return kvm and stops_clocks if self.restored is None else self.restored


def recent(starts: Sequence[float], now: float, rules: PoolRules) -> tuple[float, ...]:
    """What of these times still counts, in order."""
    return tuple(sorted(time for time in starts if now - time <= rules.keep_s))[-MOST_TIMES:]


def wanted(starts: Sequence[float], now: float, rules: PoolRules) -> int:
    """For a version whose MicroVMs were started at these times, were there memory without end."""
    times = recent(starts, now, rules)
    most, first = 0, 0
    for last, time in enumerate(times):
        while time - times[first] > rules.burst_s:
            first += 1
        most = max(most, last - first + 1)
    return min(most, rules.most)


def room(rules: PoolRules, *, cost_mib: int, taken_mib: int, available_mib: int) -> int:
    """How many may wait. Those that do take `taken_mib`, which `available_mib` does not hold."""
    allowed = min(rules.memory_mib, taken_mib + available_mib - rules.spare_mib)
    return max(0, allowed) // max(1, cost_mib)


def plan(
    starts: Mapping[K, Sequence[float]], now: float, rules: PoolRules, most: int
) -> dict[K, int]:
    """How many are to wait of each version, at most so many in all; versions with none are left
    out."""
    wants = {key: count for key, times in starts.items() if (count := wanted(times, now, rules))}
    order = sorted(wants, key=lambda key: max(starts[key]), reverse=True)
    planned: dict[K, int] = {}
    for number in range(rules.most):
        for key in order:
            if number < wants[key] and sum(planned.values()) < most:
                planned[key] = number + 1
    return planned
