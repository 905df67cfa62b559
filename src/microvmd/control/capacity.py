"""Whether the node has room, asked inside the transaction that takes it.

Who is let in is a row of the store, so the next to ask already counts it: that it has not started
yet, or that its report is still to come, opens no gap.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from microvmd.control.store import Transaction
from microvmd.messages.capacity import Measured, Meter
from microvmd.model.capacity import NO_ROOM, CapacityRules, Machine, Share
from microvmd.model.errors import InsufficientCapacity

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """What is on a machine, and how much more may come; ``left_mib`` may be negative."""

    machine: Machine
    microvms: int
    builds: int
    baseline_mib: int
    left_mib: int
    waiting: int = 0
    """VMMs without a guest."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Without a meter there is always room."""

    rules: CapacityRules = field(default_factory=CapacityRules)
    meter: Meter | None = None

    def check_run(self, tx: Transaction, memory_mib: int) -> None:
        """Raise InsufficientCapacity when a MicroVM of this baseline has no room."""
        self._check(tx, self.rules.microvm(memory_mib))

    def check_resume(self, tx: Transaction, microvm_id: str, memory_mib: int) -> None:
        """The same for a SUSPENDED one, which takes at once what it had taken before."""
        if self.meter is not None:
            stored = self.meter.stored_mib(microvm_id)
            self._check(tx, self.rules.microvm(memory_mib, stored_mib=stored))

    def check_build(self, tx: Transaction, memory_mib: int) -> None:
        """The same for a build."""
        self._check(tx, self.rules.further_build(tx.use.building(), memory_mib))

    def room(self, tx: Transaction) -> Room | None:
        """None without a meter."""
        if self.meter is None:
            return None
        measured = self.meter.measure()
        held = list(self.held(tx, measured))
        return Room(
            machine=measured.machine,
            microvms=len(tx.use.on_node()),
            builds=len(tx.use.building()),
            baseline_mib=sum(share.baseline_mib for share in held),
            left_mib=self.rules.room_mib(measured.machine, held),
            waiting=measured.waiting,
        )

    def held(self, tx: Transaction, measured: Measured) -> Iterator[Share]:
        """All that has been let in and has not left, of all accounts; builds that wait for others
        take nothing yet."""
        for microvm_id, baseline in tx.use.on_node():
            taken = measured.taken_mib.get(microvm_id, 0)
            yield self.rules.microvm(baseline, taken_mib=taken)
        yield from self.rules.builds(tx.use.building())

    def _check(self, tx: Transaction, asked: Share) -> None:
        if self.meter is None:
            return
        measured = self.meter.measure()
        shortage = self.rules.shortage(measured.machine, self.held(tx, measured), asked)
        if shortage is not None:
            log.warning("capacity.insufficient", reason=shortage)
            raise InsufficientCapacity(NO_ROOM)
