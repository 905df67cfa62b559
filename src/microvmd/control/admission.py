"""Whether an account may have one more MicroVM, image, version or build, and the node has room.

Asked inside the transaction that makes it: no two calls can both take the last room.
"""

from dataclasses import dataclass, field

from microvmd.control.capacity import Capacity
from microvmd.control.store import Transaction
from microvmd.model.errors import InsufficientCapacity
from microvmd.model.quota import QUOTAS, Quotas


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits in force. Methods raise QuotaExceeded or, where it says so, InsufficientCapacity.

    The account's own limits come first: who is beyond them learns nothing about the machine.
    """

    quotas: Quotas = QUOTAS
    capacity: Capacity = field(default_factory=Capacity)

    def check_run(self, tx: Transaction, account: str, memory_mib: int) -> None:
        """A MicroVM of this baseline. Also raises InsufficientCapacity."""
        self.quotas.check_memory(tx.use.of(account).memory_mib, memory_mib)
        self.capacity.check_run(tx, memory_mib)

    def check_resume(self, tx: Transaction, microvm_id: str, memory_mib: int) -> None:
        """A SUSPENDED MicroVM comes back. Raises InsufficientCapacity only."""
        self.capacity.check_resume(tx, microvm_id, memory_mib)

    def has_room_to_build(self, tx: Transaction, memory_mib: int) -> bool:
        """No operation that builds has InsufficientCapacity: it is the build that fails."""
        try:
            self.capacity.check_build(tx, memory_mib)
        except InsufficientCapacity:
            return False
        return True

    def check_image(self, tx: Transaction, account: str, memory_mib: int) -> None:
        """A new image, and the build of its first version."""
        self.quotas.check_images(tx.use.images(account))
        self._check_build(tx, account, memory_mib)

    def check_version(self, tx: Transaction, account: str, image: str, memory_mib: int) -> None:
        """A further version of an image, and its build."""
        self.quotas.check_versions(tx.use.versions(account, image))
        self._check_build(tx, account, memory_mib)

    def _check_build(self, tx: Transaction, account: str, memory_mib: int) -> None:
        use = tx.use.of(account)
        self.quotas.check_builds(use.builds)
        self.quotas.check_memory(use.memory_mib, memory_mib)
