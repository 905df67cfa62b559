"""What a MicroVM used, in the dimensions that AWS bills: reference, section 10.

A meter runs for each MicroVM from its run to its end. It is read at each change of state and
whenever somebody asks, so that it holds what has passed and the moment up to which that is so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from microvmd.model.microvm import Phase

HOUR_S = 3600
GB = 1 << 30
"""AWS's GB of memory and of snapshots are of 1024: sizes are in MiB."""
BASELINE_MIB_PER_VCPU = 2048
"""Of every size: half a vCPU per GB, as the table of sizes has it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds, vCPU-seconds, GB-seconds and bytes. Usage of several is their sum."""

    running_s: float = 0.0
    suspended_s: float = 0.0
    vcpu_s: float = 0.0
    memory_gb_s: float = 0.0
    read_bytes: int = 0
    """Of snapshots, at each run and resume."""
    written_bytes: int = 0
    """Of snapshots, at each suspend."""
    stored_gb_s: float = 0.0
    """Of suspend snapshots while SUSPENDED."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.running_s + other.running_s,
            self.suspended_s + other.suspended_s,
            self.vcpu_s + other.vcpu_s,
            self.memory_gb_s + other.memory_gb_s,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
            self.stored_gb_s + other.stored_gb_s,
        )

    @classmethod
    def running(cls, seconds: float, memory_mib: int) -> Self:
        """The baseline is billed while it runs, idle or not."""
        return cls(
            running_s=seconds,
            vcpu_s=seconds * memory_mib / BASELINE_MIB_PER_VCPU,
            memory_gb_s=seconds * memory_mib * (1 << 20) / GB,
        )

    @classmethod
    def suspended(cls, seconds: float, stored_bytes: int) -> Self:
        return cls(suspended_s=seconds, stored_gb_s=seconds * stored_bytes / GB)


@dataclass(frozen=True, slots=True)
class Meter:
    """``at`` is the moment up to which usage is recorded; times are wall-clock seconds."""

    phase: Phase
    at: float
    memory_mib: int
    stored_bytes: int = 0

    def read(self, now: float) -> Iterator[tuple[int, Usage]]:
        """Usage since ``at``, by hour (the wall-clock second that the hour begins with)."""
        start = self.at
        while start < now:
            hour = int(start) // HOUR_S * HOUR_S
            end = min(now, hour + HOUR_S)
            used = self._for(end - start)
            if used is not None:
                yield hour, used
            start = end

    def turned(self, phase: Phase, now: float, *, stored_bytes: int = 0) -> "Meter":
        """After a change of state, or with the same one when it was read. Time that goes
        backwards counts for nothing."""
        stored = stored_bytes if phase in (Phase.SUSPENDED, Phase.RESUMING) else 0
        return replace(self, phase=phase, at=max(now, self.at), stored_bytes=stored)

    def _for(self, seconds: float) -> Usage | None:
        match self.phase:
            case Phase.RUNNING | Phase.SUSPENDING:
                return Usage.running(seconds, self.memory_mib)
            case Phase.SUSPENDED | Phase.RESUMING:
                return Usage.suspended(seconds, self.stored_bytes)
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Prices:
    """In the currency of whoever sets them, for one unit each; the defaults are AWS's in US dollars
    (us-east-1, 2026-08-07)."""

    vcpu_s: float = 0.0000276944
    memory_gb_s: float = 0.0000036667
    written_gb: float = 0.0037977138
    read_gb: float = 0.0015467699
    stored_gb_hour: float = 0.0001111111

    def cost(self, used: Usage) -> float:
        return (
            used.vcpu_s * self.vcpu_s
            + used.memory_gb_s * self.memory_gb_s
            + used.written_bytes / GB * self.written_gb
            + used.read_bytes / GB * self.read_gb
            + used.stored_gb_s / HOUR_S * self.stored_gb_hour
        )
