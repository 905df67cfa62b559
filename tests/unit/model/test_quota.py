"""Quotas: the last that fits, the first that does not, and none at all."""

import pytest

from microvmd.model.errors import QuotaExceeded
from microvmd.model.quota import QUOTAS, Quotas


def test_defaults_are_those_of_aws() -> None:
    assert Quotas(memory_mib=409_600, images=100, versions=50, builds=5) == QUOTAS


def test_memory() -> None:
    quotas = Quotas(memory_mib=2048)
    quotas.check_memory(1536, 512)
    with pytest.raises(QuotaExceeded) as refused:
        quotas.check_memory(1537, 512)
    assert refused.value.message == (
        "The base maximum allocated memory limit has been reached for this account."
    )


def test_counts() -> None:
    quotas = Quotas(images=2, versions=3, builds=1)
    for check, limit in (
        (quotas.check_images, 2),
        (quotas.check_versions, 3),
        (quotas.check_builds, 1),
    ):
        check(limit - 1)
        with pytest.raises(QuotaExceeded):
            check(limit)


def test_zero_is_no_limit() -> None:
    quotas = Quotas(0, 0, 0, 0)
    quotas.check_memory(1 << 40, 1 << 40)
    for check in (quotas.check_images, quotas.check_versions, quotas.check_builds):
        check(1 << 40)
