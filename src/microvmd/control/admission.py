"""Whether an account may have one more MicroVM, image, version or build.

Asked inside the transaction that makes it: no two calls can both take the last room.
"""

from dataclasses import dataclass

from microvmd.control.store import Transaction
from microvmd.model.quota import QUOTAS, Quotas


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits in force. Each method raises QuotaExceeded."""

    quotas: Quotas = QUOTAS

    def check_run(self, tx: Transaction, account: str, memory_mib: int) -> None:
        """A MicroVM of this baseline."""
        self.quotas.check_memory(tx.use.of(account).memory_mib, memory_mib)

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
