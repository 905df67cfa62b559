"""What one account may have: memory, images, versions, builds. 0 is no limit.

The defaults and what counts are the real service's (reference, section 3.3). The text about memory
is recorded; the others follow its manner.
"""

from dataclasses import dataclass

from microvmd.model.errors import QuotaExceeded


@dataclass(frozen=True, slots=True)
class Use:
    """What an account has now. Memory is the baseline of its MicroVMs and builds in flight."""

    memory_mib: int = 0
    images: int = 0
    builds: int = 0


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits of every account; ``versions`` is for each image."""

    memory_mib: int = 400 * 1024
    images: int = 100
    versions: int = 50
    builds: int = 5

    def check_memory(self, used_mib: int, asked_mib: int) -> None:
        """Raise QuotaExceeded when a MicroVM or build of this baseline has no room."""
        if self.memory_mib and used_mib + asked_mib > self.memory_mib:
            raise QuotaExceeded(
                "The base maximum allocated memory limit has been reached for this account."
            )

    def check_images(self, count: int) -> None:
        """Raise QuotaExceeded when an account with so many images may have no further one."""
        if self.images and count >= self.images:
            raise QuotaExceeded(
                "The maximum number of MicroVM images has been reached for this account."
            )

    def check_versions(self, count: int) -> None:
        """Raise QuotaExceeded when an image with so many versions may have no further one."""
        if self.versions and count >= self.versions:
            raise QuotaExceeded(
                "The maximum number of versions has been reached for this MicroVM image."
            )

    def check_builds(self, count: int) -> None:
        """Raise QuotaExceeded when so many builds are in flight that none may begin."""
        if self.builds and count >= self.builds:
            raise QuotaExceeded(
                "The maximum number of concurrent MicroVM image builds has been reached for this "
                "account."
            )


QUOTAS = Quotas()
"""Those of AWS."""
