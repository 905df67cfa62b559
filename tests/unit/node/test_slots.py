"""Names and addresses never collide, and a freed address is reused as late as possible."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.slots import NetworkError, NetworkSettings, Slots


def settings(subnet: str = "10.213.0.0/28", prefix: str = "mvm") -> NetworkSettings:
    return NetworkSettings(Path("/run/x"), prefix, ipaddress.IPv4Network(subnet))


def test_a_slot_is_a_30_with_both_ends() -> None:
    slot = settings("10.213.0.0/16").slot(3)

    assert (slot.name, slot.root_address, slot.edge_address) == (
        "mvm3",
        "10.213.0.13",
        "10.213.0.14",
    )


def test_slots_are_given_once_until_none_is_left() -> None:
    slots = Slots(settings())

    assert [slots.take().index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(NetworkError):
        slots.take()


def test_a_freed_slot_comes_back_last() -> None:
    slots = Slots(settings())
    first = slots.take()
    slots.free(first.index)

    assert [slots.take().index for _ in range(4)] == [1, 2, 3, 0]


def test_live_networks_of_an_earlier_run_keep_their_slots() -> None:
    slots = Slots(settings(), taken=[1])

    assert [slots.take().index for _ in range(3)] == [2, 3, 0]


def test_a_slot_whose_interface_still_vanishes_is_passed_over() -> None:
    slots = Slots(settings(), occupied=lambda name: name == "mvm0")

    assert slots.take().index == 1
    assert not slots.holds(0)


@pytest.mark.parametrize("prefix", ["", "9", "mvm9", "MVM", "waytoolong", "a-b", "é"])
def test_bad_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(NetworkError):
        settings(prefix=prefix)


@pytest.mark.parametrize("subnet", ["10.0.0.0/31", "10.0.0.0/13"])
def test_bad_subnets_are_refused(subnet: str) -> None:
    with pytest.raises(NetworkError):
        settings(subnet)


@given(st.integers(0, (1 << 14) - 1))
def test_names_lead_back_to_their_slot_and_fit_an_interface(index: int) -> None:
    own = settings("10.213.0.0/16", "abcdefg")
    slot = own.slot(index)

    assert own.index_of(slot.name) == index
    assert len(slot.name) <= 15
    assert ipaddress.ip_address(slot.edge_address) in own.subnet


@given(st.text("mvm0123456789²", max_size=9))
def test_a_name_is_owned_if_and_only_if_a_slot_has_it(name: str) -> None:
    own = settings("10.213.0.0/27")

    assert own.owns(name) == (name in {own.slot(index).name for index in range(own.capacity)})


@pytest.mark.parametrize(
    "name", ["mvm", "mvm01", "mvm4", "mvm-1", "xmvm1", "mvm1x", "mvm²", "eth0"]
)
def test_names_that_look_alike_are_foreign(name: str) -> None:
    assert not settings().owns(name)
