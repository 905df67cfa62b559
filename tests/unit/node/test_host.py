"""An instance does not start on addresses that somebody else uses."""

import ipaddress
from pathlib import Path

import pytest

from microvmd.node.host import check_free, has_guard
from microvmd.node.slots import NetworkError, NetworkSettings

SETTINGS = NetworkSettings(Path("/run/x"), subnet=ipaddress.IPv4Network("10.200.0.0/16"))


def link(name: str, address: str, length: int) -> dict[str, object]:
    return {"ifname": name, "addr_info": [{"local": address, "prefixlen": length}]}


@pytest.mark.parametrize(("address", "length"), [("10.200.7.1", 24), ("10.0.0.1", 8)])
def test_a_foreign_address_in_the_subnet_is_named(address: str, length: int) -> None:
    with pytest.raises(NetworkError, match="in use: br0 has"):
        check_free([link("lo", "127.0.0.1", 8), link("br0", address, length)], SETTINGS)


def test_own_interfaces_and_other_addresses_are_fine() -> None:
    bare: dict[str, object] = {"ifname": "eth1"}

    check_free([link("mvm3", "10.200.0.13", 30), link("eth0", "10.201.0.1", 16), bare], SETTINGS)


def test_a_guard_is_known_by_its_table_and_name() -> None:
    def listing(table: str, name: str) -> dict[str, list[dict[str, dict[str, object]]]]:
        about: dict[str, dict[str, object]] = {"metainfo": {"version": "1.0.6"}}
        return {"nftables": [about, {"chain": {"family": "inet", "table": table, "name": name}}]}

    assert has_guard(listing("microvmd_mvm", "only_ours"))
    assert not has_guard(listing("microvmd_mvm", "forwarded"))
    assert not has_guard(listing("filter", "only_ours"))
    assert not has_guard({"nftables": []})
