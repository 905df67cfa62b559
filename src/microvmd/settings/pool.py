"""The table ``[pool]``: VMMs that wait for a run."""

from pydantic import Field

from microvmd.model.pool import PoolRules
from microvmd.settings.section import Section


class PoolSettings(Section):
    """VMMs that are started before a run asks for one."""

    memory_mib: int = Field(
        default=128,
        ge=0,
        description="memory that VMMs which wait for a run may take together; they give way where "
        "the machine is short of it. 0 turns them off",
    )
    per_version: int = Field(
        default=4,
        ge=1,
        le=64,
        description="most VMMs that wait for one image version: as many as were run at once lately",
    )
    keep_seconds: float = Field(
        default=300,
        gt=0,
        description="how long VMMs wait for a version that nobody runs any more",
    )

    restored: bool | None = Field(
        default=None,
        description="whether the guests of VMMs that wait are restored already, and stand still "
        "until a run; that takes some 10 MiB more each. Unset: under QEMU with KVM. Under "
        "Firecracker the monotonic clock of a guest goes on meanwhile; with emulation hardly any "
        "time is saved",
    )

    def rules(self, *, reserve_mib: int, microvm_mib: int) -> PoolRules:
        """What waits leaves room for some MicroVMs: it is never why a run is refused."""
        return PoolRules(
            memory_mib=self.memory_mib,
            most=self.per_version,
            keep_s=self.keep_seconds,
            spare_mib=reserve_mib + self.per_version * microvm_mib,
            restored=self.restored,
        )
