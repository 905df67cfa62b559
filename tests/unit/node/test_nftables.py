"""The rulesets as text: what is generated from settings and ports; tests/vm shows what they do."""

import ipaddress
from pathlib import Path

import pytest

from microvmd.model.egress import INTERNET, NAMED_PORTS, NOTHING, Egress, Protocol, Reach
from microvmd.node import nftables
from microvmd.node.slots import NetworkSettings

SETTINGS = NetworkSettings(Path("/run/x"), subnet=ipaddress.IPv4Network("198.51.100.0/24"))
SLOT = SETTINGS.slot(1)


def test_without_egress_nothing_but_metadata_is_accepted_from_the_guest() -> None:
    text = nftables.guest_ruleset(SETTINGS, SLOT, NOTHING)

    (accepted,) = [
        line
        for line in text.splitlines()
        if 'iifname "tap0"' in line and line.endswith("accept") and "saddr" not in line
    ]
    assert "ip daddr 169.254.169.254 tcp dport 80 ct state new" in accepted
    for chain in ("from_guest_out", "from_guest_names"):
        assert "accept" not in chain_of(text, chain)


def chain_of(text: str, name: str) -> str:
    return text.split(f"chain {name} {{")[1].split("}\n")[0]


def test_an_unusual_subnet_is_denied_too() -> None:
    text = nftables.guest_ruleset(SETTINGS, SLOT, INTERNET)

    assert "198.51.100.0/24" in text.split("set denied")[1].split("\n")[0]
    assert nftables.denied(ipaddress.IPv4Address("198.51.100.9"), SETTINGS.subnet, INTERNET)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("100.127.255.255", True),
        ("127.0.0.1", True),
        ("169.254.169.254", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("192.168.1.1", True),
        ("224.0.0.251", True),
        ("255.255.255.255", True),
        ("0.0.0.0", True),
        ("1.1.1.1", False),
        ("100.128.0.1", False),
    ],
)
def test_denied_ranges(address: str, expected: bool) -> None:
    subnet = ipaddress.IPv4Network("10.200.0.0/16")

    assert nftables.denied(ipaddress.IPv4Address(address), subnet, INTERNET) is expected


def test_blocked_ports_are_elements_of_the_set() -> None:
    text = nftables.guest_ruleset(SETTINGS, SLOT, INTERNET, [9000, 8000, 9000])

    assert "set blocked_ports { type inet_service; elements = { 8000, 9000 }; }" in text


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="not a port"):
        nftables.block_ports([port])


def test_the_host_guards_forwarding_only_if_it_was_off() -> None:
    guard = f"iifgroup != {nftables.GROUP} oifgroup != {nftables.GROUP} drop"

    assert guard in nftables.host_ruleset(SETTINGS, only_ours=True)
    assert guard not in nftables.host_ruleset(SETTINGS, only_ours=False)


def test_the_hosts_table_replaces_itself_in_one_transaction() -> None:
    lines = nftables.host_ruleset(SETTINGS, only_ours=True).splitlines()

    assert lines[:3] == [
        "table inet microvmd_mvm",
        "delete table inet microvmd_mvm",
        "table inet microvmd_mvm {",
    ]
    assert nftables.is_host_table("microvmd_mvm")


def by_name(*names: str, ports: tuple[tuple[int, int], ...] = NAMED_PORTS) -> Reach:
    return Reach("nc-1:1", ipaddress.IPv4Network("0.0.0.0/0"), Protocol.TCP, ports, names)


def test_names_open_only_what_was_pinned_and_through_the_guard() -> None:
    text = nftables.egress_update(SETTINGS, Egress(reaches=(by_name("a.test"),)))

    assert "accept" not in chain_of(text, "from_guest_out")
    for line in chain_of(text, "from_guest_named").splitlines():
        assert "redirect" not in line or "ct original ip daddr @pins_" in line
    assert "limit rate over 20/second" in chain_of(text, "from_guest_names")


def test_without_names_nothing_goes_through_a_guard() -> None:
    for egress in (INTERNET, NOTHING):
        text = nftables.egress_update(SETTINGS, egress)
        assert "pins_" not in text
        assert "redirect" not in text
        assert "accept" not in chain_of(text, "from_guest_guarded")
        assert "accept" not in chain_of(text, "from_guard_out")


@pytest.mark.parametrize(
    ("ports", "by_address"),
    [
        (NAMED_PORTS, None),
        (((5432, 5432),), "5432-5432"),
        (((1, 65535),), "1-79, 81-442, 444-65535"),
        (((443, 444), (79, 80)), "79-79, 444-444"),
    ],
)
def test_ports_of_names_other_than_the_guards_go_by_address(
    ports: tuple[tuple[int, int], ...], by_address: str | None
) -> None:
    text = nftables.egress_update(SETTINGS, Egress(reaches=(by_name("a.test", ports=ports),)))

    out = chain_of(text, "from_guest_out")
    if by_address is None:
        assert "pins_" not in out
    else:
        assert f"ct original proto-dst {{ {by_address} }} ct state new ct mark set" in out


def test_other_names_are_other_sets() -> None:
    address = {ipaddress.IPv4Address("198.51.100.7"): 60}
    one, same, other = (
        nftables.pin_update(by_name(name), address) for name in ("a.test", "a.test", "b.test")
    )
    assert one == same != other
