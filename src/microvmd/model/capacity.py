"""Whether the machine has room for one more MicroVM or build, from what was measured.

Memory that a guest may use is not memory that it uses: clones of one image share its pages, and an
idle one of a small application takes some 45 MiB. So room is what is really free, less a reserve,
less what those that were let in have not taken yet: each is counted with ``microvm_mib`` at least,
from before it starts. A hundred runs at once thus cannot all be let in by the same free memory.
All sizes are in MiB.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest

NO_ROOM = "There is insufficient capacity to fulfill the request. Retry the request later."
"""The API model's words for InsufficientCapacityException; nobody has recorded others."""
BUILD_MIB = 512
"""What a build takes at least: a build machine, then the application as it starts."""
BUILDS_AT_ONCE = 2
"""More wait on their node until one of these has ended, and take nothing meanwhile."""
RESERVE_MIB = 512
MICROVM_MIB = 128
DISK_MIB = 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node has, and what of it could be taken at this moment."""

    memory_mib: int
    available_mib: int
    disk_mib: int
    disk_free_mib: int


@dataclass(frozen=True, slots=True)
class Share:
    """One MicroVM or build: its baseline, what it takes soon, what it has taken already."""

    baseline_mib: int
    soon_mib: int
    taken_mib: int = 0


@dataclass(frozen=True, slots=True)
class CapacityRules:
    """What an operator sets. ``overcommit`` 0 is no limit of baselines."""

    reserve_mib: int = RESERVE_MIB
    microvm_mib: int = MICROVM_MIB
    overcommit: float = 0.0
    disk_mib: int = DISK_MIB

    def microvm(self, baseline_mib: int, *, taken_mib: int = 0, stored_mib: int = 0) -> Share:
        """``stored_mib`` is what a resume writes back into its memory."""
        return Share(baseline_mib, max(self.microvm_mib, stored_mib), taken_mib)

    def builds(self, baselines_mib: Iterable[int]) -> list[Share]:
        """Of builds in flight, the largest that are made at a time."""
        soon = max(self.microvm_mib, BUILD_MIB)
        return [Share(baseline, soon) for baseline in nlargest(BUILDS_AT_ONCE, baselines_mib)]

    def further_build(self, baselines_mib: Iterable[int], asked_mib: int) -> Share:
        """What one more build adds to those in flight: no memory where it has to wait for them."""
        before = self.builds(baselines_mib)
        after = self.builds([*(share.baseline_mib for share in before), asked_mib])
        return Share(
            _baselines(after) - _baselines(before),
            sum(share.soon_mib for share in after) - sum(share.soon_mib for share in before),
        )

    def room_mib(self, machine: Machine, held: Iterable[Share]) -> int:
        """Memory for further ones; negative when the reserve is touched."""
        promised = sum(max(0, share.soon_mib - share.taken_mib) for share in held)
        return machine.available_mib - self.reserve_mib - promised

    def shortage(self, machine: Machine, held: Iterable[Share], asked: Share) -> str | None:
        """Why there is no room, for the operator; None when there is."""
        held = list(held)
        if machine.disk_free_mib < self.disk_mib:
            return (
                f"the disk has {machine.disk_free_mib} MiB free, limits.disk_mib asks for "
                f"{self.disk_mib}"
            )
        room = self.room_mib(machine, held)
        if asked.soon_mib and room < asked.soon_mib:
            return (
                f"{asked.soon_mib} MiB of memory are needed and {room} are free: "
                f"{machine.available_mib} available, {self.reserve_mib} reserved, the rest is "
                "promised to those that were let in"
            )
        baselines = _baselines(held) + asked.baseline_mib
        allowed = int(self.overcommit * machine.memory_mib)
        if self.overcommit and baselines > allowed:
            return (
                f"baselines would be {baselines} MiB, limits.overcommit allows {allowed} of a "
                f"machine of {machine.memory_mib}"
            )
        return None


def _baselines(shares: Iterable[Share]) -> int:
    return sum(share.baseline_mib for share in shares)
