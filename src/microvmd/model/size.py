"""Memory sizes, and the processors and disk that follow from them.

A size names the *baseline*; the guest sees the peak, four times the memory, from its first moment
(the vendor's table: reference, section 3.1). An operator may offer further sizes of the same shape.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from microvmd.model.errors import ValidationError

DEFAULT_MEMORY_MIB = 2048
AWS_MEMORY_MIB = (512, 1024, 2048, 4096, 8192)
SMALLEST_MIB = 64
"""Four times this is what a kernel, the agent and a small application need."""
LARGEST_MIB = 1 << 18


@dataclass(frozen=True, slots=True)
class Size:
    """What one MicroVM gets. Memory in MiB, disk in GiB."""

    baseline_mib: int
    peak_mib: int
    peak_vcpus: int
    disk_gib: int

    @classmethod
    def of(cls, baseline_mib: int) -> Self:
        """The vendor's five rows follow this rule, and so do an operator's own sizes."""
        return cls(
            baseline_mib=baseline_mib,
            peak_mib=4 * baseline_mib,
            peak_vcpus=max(1, baseline_mib // 512),
            disk_gib=max(8, baseline_mib // 256),
        )

    def vcpus(self, host_cpus: int) -> int:
        """More virtual processors than real ones only slow a guest down."""
        return max(1, min(self.peak_vcpus, host_cpus))


def cpu_weight(peak_mib: int) -> int:
    """Share of a guest with this memory where processors are short: 100 for each baseline vCPU,
    of which the vendor's table gives one to 2048 MiB of baseline; 1 to 10,000, as Linux has it."""
    return min(10_000, max(1, 100 * peak_mib // Size.of(DEFAULT_MEMORY_MIB).peak_mib))


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that images may ask for, smallest first; MiB of baseline memory."""

    offered: tuple[int, ...] = AWS_MEMORY_MIB

    @classmethod
    def with_own(cls, own_mib: Iterable[int]) -> Self:
        """AWS's sizes and an operator's own."""
        return cls(tuple(sorted({*AWS_MEMORY_MIB, *own_mib})))

    def check(self, memory_mib: int, base_image_arn: str) -> None:
        """Raise ValidationError with the recorded text for a size that is not offered."""
        if memory_mib not in self.offered:
            raise ValidationError(
                f"The requested memory size of {memory_mib} MiB is not supported by base MicroVM "
                f"image {base_image_arn}. Supported memory sizes in MiB are: {list(self.offered)}."
            )


AWS_SIZES = Sizes()
