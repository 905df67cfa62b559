"""Memory sizes, and the processors and disk that follow from them.

The table is the vendor's (reference, section 3.1): a size names the *baseline*; the guest sees the
peak, four times the memory, from its first moment.
"""

from dataclasses import dataclass

from microvmd.model.errors import ValidationError

DEFAULT_MEMORY_MIB = 2048


@dataclass(frozen=True, slots=True)
class Size:
    """What one MicroVM gets. Memory in MiB, disk in GiB."""

    baseline_mib: int
    peak_mib: int
    peak_vcpus: int
    disk_gib: int

    def vcpus(self, host_cpus: int) -> int:
        """More virtual processors than real ones only slow a guest down."""
        return max(1, min(self.peak_vcpus, host_cpus))


SIZES = {
    512: Size(512, 2048, 1, 8),
    1024: Size(1024, 4096, 2, 8),
    2048: Size(2048, 8192, 4, 8),
    4096: Size(4096, 16384, 8, 16),
    8192: Size(8192, 32768, 16, 32),
}


def size_of(memory_mib: int, base_image_arn: str) -> Size:
    """Raise ValidationError with the recorded text for a size that is not offered."""
    size = SIZES.get(memory_mib)
    if size is None:
        raise ValidationError(
            f"The requested memory size of {memory_mib} MiB is not supported by base MicroVM image "
            f"{base_image_arn}. Supported memory sizes in MiB are: {list(SIZES)}."
        )
    return size
