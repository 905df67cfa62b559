"""What a restored guest must show, and what of another's it must not."""

import time
import uuid
from dataclasses import replace

import pytest

from microvmd.model.identifiers import new_microvm_id
from microvmd.node.guest import Identity
from microvmd.node.uniqueness import Given, NotUnique, Uniqueness

ONE = Given.of(new_microvm_id())
OTHER = Given.of(new_microvm_id())


def _shown(given: Given, sample: str, *, behind: float = 0.0) -> Identity:
    nanos = time.time_ns() - int(behind * 1e9)
    return Identity(nanos, given.hostname, given.machine_id, given.boot_id, sample)


def test_an_identity_fits_where_the_guest_puts_it() -> None:
    assert len(ONE.hostname) <= 64
    assert len(bytes.fromhex(ONE.machine_id)) == 16
    assert uuid.UUID(ONE.boot_id).version == 4


def test_identities_are_stable_and_differ() -> None:
    assert Given.of(ONE.hostname) == ONE
    assert not {ONE.hostname, ONE.machine_id, ONE.boot_id} & {
        OTHER.hostname,
        OTHER.machine_id,
        OTHER.boot_id,
    }


def test_each_is_its_own() -> None:
    uniqueness = Uniqueness()
    uniqueness.prove(ONE, _shown(ONE, "00" * 16))
    uniqueness.prove(OTHER, _shown(OTHER, "01" * 16))
    uniqueness.prove(ONE, _shown(ONE, "02" * 16, behind=1.0))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("host name", {"hostname": OTHER.hostname}),
        ("machine id", {"machine_id": OTHER.machine_id}),
        ("boot id", {"boot_id": OTHER.boot_id}),
        ("clock", {"unix_nanos": time.time_ns() - 3600 * 10**9}),
        ("clock", {"unix_nanos": time.time_ns() + 3600 * 10**9}),
        ("random bytes", {"sample": ""}),
        ("random bytes", {"sample": "0x" * 16}),
    ],
)
def test_what_differs_is_refused(name: str, change: dict[str, object]) -> None:
    shown = replace(_shown(ONE, "00" * 16), **change)  # type: ignore[arg-type]
    with pytest.raises(NotUnique, match=name):
        Uniqueness().prove(ONE, shown)


def test_random_numbers_of_another_are_refused() -> None:
    uniqueness = Uniqueness(remembered=2)
    uniqueness.prove(ONE, _shown(ONE, "00" * 16))
    with pytest.raises(NotUnique, match=f"those that {ONE.hostname} had"):
        uniqueness.prove(OTHER, _shown(OTHER, "00" * 16))
    for number in ("01", "02"):
        uniqueness.prove(OTHER, _shown(OTHER, number * 16))
    uniqueness.prove(OTHER, _shown(OTHER, "00" * 16))
