"""Sizes follow the vendor's table, and an operator's own follow the same rule."""

import pytest

from microvmd.model.errors import ValidationError
from microvmd.model.size import AWS_MEMORY_MIB, AWS_SIZES, LARGEST_MIB, Size, Sizes, cpu_weight

# Reference, section 3.1: baseline MiB -> peak MiB, peak vCPU, disk GB.
VENDOR = {
    512: (2048, 1, 8),
    1024: (4096, 2, 8),
    2048: (8192, 4, 8),
    4096: (16384, 8, 16),
    8192: (32768, 16, 32),
}


def test_the_rule_gives_the_vendors_table() -> None:
    assert tuple(VENDOR) == AWS_MEMORY_MIB
    for baseline, row in VENDOR.items():
        size = Size.of(baseline)
        assert (size.peak_mib, size.peak_vcpus, size.disk_gib) == row


def test_virtual_processors_never_exceed_the_real_ones() -> None:
    assert [Size.of(2048).vcpus(n) for n in (1, 2, 4, 64)] == [1, 2, 4, 4]
    assert Size.of(128).vcpus(8) == 1


def test_weights_are_the_vendors_baseline_processors() -> None:
    baseline_vcpus = {512: 0.25, 1024: 0.5, 2048: 1, 4096: 2, 8192: 4}
    for baseline, vcpus in baseline_vcpus.items():
        assert cpu_weight(Size.of(baseline).peak_mib) == 100 * vcpus
    assert cpu_weight(1) == 1
    assert cpu_weight(Size.of(LARGEST_MIB).peak_mib) == 10_000


def test_only_what_is_offered_passes() -> None:
    AWS_SIZES.check(512, "arn:base")
    with pytest.raises(ValidationError) as refused:
        AWS_SIZES.check(32768, "arn:base")
    assert refused.value.message == (
        "The requested memory size of 32768 MiB is not supported by base MicroVM image arn:base. "
        "Supported memory sizes in MiB are: [512, 1024, 2048, 4096, 8192]."
    )


def test_own_sizes_come_beside_those_of_aws() -> None:
    own = Sizes.with_own([16384, 128, 512])
    assert own.offered == (128, 512, 1024, 2048, 4096, 8192, 16384)
    own.check(128, "arn:base")
    with pytest.raises(ValidationError, match=r"\[128, 512, 1024"):
        own.check(256, "arn:base")
