"""How fast one guest may make the node work: a rate with a burst, in whatever a cost is counted.

What a guest or a VMM sends costs the node time and memory, however small its pieces are. So a cost
is what the work is worth, not only its bytes. Whoever spends more waits; nobody else does.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Pace:
    """``rate`` per second in the long run, and ``burst`` at once."""

    rate: float
    burst: float
    _debt: float = field(default=0.0, init=False)
    _at: float = field(default=0.0, init=False)

    def spend(self, cost: float, now: float) -> float:
        """Note what was done; seconds to wait before more is done. ``now`` is monotonic."""
        self._debt = max(0.0, self._debt - (now - self._at) * self.rate) + cost
        self._at = now
        return max(0.0, (self._debt - self.burst) / self.rate)
