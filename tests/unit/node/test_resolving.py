"""Which answers open what, and for how long."""

import asyncio
from ipaddress import IPv4Address, IPv4Network

import pytest

from microvmd.model.egress import INTERNET, NOTHING, Egress, Protocol, Reach
from microvmd.node.resolving import Resolving

SUBNET = IPv4Network("10.200.0.0/16")
PUBLIC, PRIVATE = IPv4Address("198.51.100.7"), IPv4Address("10.99.0.1")
ANYWHERE = IPv4Network("0.0.0.0/0")
WEB = ((80, 80), (443, 443))


def by_name(*names: str, network: IPv4Network = ANYWHERE) -> Reach:
    return Reach("nc-1:1", network, Protocol.TCP, WEB, names)


class Filter:
    """What was loaded, and a clock."""

    def __init__(self, egress: Egress | None) -> None:
        self.loaded: list[str] = []
        self.now = 0.0
        self.resolving = Resolving(SUBNET, lambda: egress, self.load, lambda: self.now)

    async def load(self, text: str) -> None:
        self.loaded.append(text)

    def pin(self, name: str, seconds: int, address: IPv4Address = PUBLIC) -> int:
        """How many times the filter was loaded for it."""
        before = len(self.loaded)
        asyncio.run(self.resolving.pin(name, {address: seconds}))
        return len(self.loaded) - before


@pytest.mark.parametrize(
    ("egress", "any_name", "opens"),
    [
        (None, True, False),
        (INTERNET, True, False),
        (NOTHING, False, False),
        (Egress(reaches=(by_name("a.test"),)), False, True),
        (Egress(True, (by_name("a.test"),)), True, True),
        (Egress(reaches=(by_name("a.test"), Reach("nc-2:1", SUBNET))), True, True),
    ],
)
def test_what_may_be_asked(egress: Egress | None, any_name: bool, opens: bool) -> None:
    resolving = Filter(egress).resolving
    assert resolving.any_name is any_name
    assert resolving.opens("a.test") is opens
    assert not resolving.opens("b.test")


@pytest.mark.parametrize(
    ("ttl", "opened"), [(0, 90), (59, 90), (60, 90), (300, 330), (3600, 3630), (1 << 31, 3630)]
)
def test_addresses_are_open_a_little_longer_than_the_answer_lasts(ttl: int, opened: int) -> None:
    filled = Filter(Egress(reaches=(by_name("a.test"),)))
    assert filled.pin("a.test", ttl) == 1
    assert f"{PUBLIC} timeout {opened}s" in filled.loaded[0]


def test_what_is_open_for_long_enough_is_left_alone() -> None:
    filled = Filter(Egress(reaches=(by_name("a.test"),)))
    assert filled.pin("a.test", 5) == 1
    filled.now = 60
    assert filled.pin("a.test", 5) == 0
    filled.now = 80
    assert filled.pin("a.test", 5) == 1
    assert filled.pin("a.test", 600) == 1
    filled.resolving.forget()
    assert filled.pin("a.test", 5) == 1


def test_only_the_names_own_networks_are_opened() -> None:
    inside = by_name("in.test", network=IPv4Network("10.99.0.0/16"))
    filled = Filter(Egress(reaches=(by_name("a.test"), inside)))
    assert filled.pin("in.test", 60, PRIVATE) == 1
    assert filled.pin("in.test", 60) == 0
    assert filled.pin("b.test", 60) == 0
    refuses = filled.resolving.refuses
    assert not refuses(PRIVATE, "in.test")
    assert refuses(PRIVATE, "a.test")
    assert refuses(PRIVATE, None)
    assert refuses(IPv4Address("169.254.169.254"), "in.test")
