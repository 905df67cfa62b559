"""Sizes follow the vendor's table."""

from microvmd.model.size import SIZES


def test_guest_sees_four_times_the_baseline() -> None:
    assert all(size.peak_mib == 4 * baseline for baseline, size in SIZES.items())


def test_virtual_processors_never_exceed_the_real_ones() -> None:
    assert [SIZES[2048].vcpus(n) for n in (1, 2, 4, 64)] == [1, 2, 4, 4]
