"""The mapping in the configuration file: both forms of a subnet, rules, and what is refused."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from pydantic import ValidationError

from microvmd.model.egress import GroupRule, MappedSubnet, Protocol
from microvmd.settings.egress import Rule, Subnet, port_range
from microvmd.settings.network import NetworkSettings
from microvmd.settings.settings import load

FILE = """
[network.subnets]
subnet-1 = ["10.20.0.0/16", "10.21.0.0/16"]
subnet-2 = {networks = ["0.0.0.0/0"], accounts = ["123456789012"]}

[network.security_groups]
sg-1 = [{cidr = "10.20.0.0/16", ports = [443, "8000-8100"]}, {protocol = "udp", ports = [53]}]
sg-none = []
"""


def test_written_and_read_again_it_means_the_same() -> None:
    given: list[dict[str, object]] = [
        {"names": ["pypi.example"]},
        {"names": ["pypi.example"], "networks": ["10.20.0.0/16"]},
        {"networks": []},
    ]
    subnets = {f"subnet-{number}": item for number, item in enumerate(given)}
    settings = NetworkSettings.model_validate({"subnets": subnets})
    again = NetworkSettings.model_validate_json(settings.model_dump_json())
    assert again.egress_map == settings.egress_map
    assert again.egress_map.subnets["subnet-0"].networks == (IPv4Network("0.0.0.0/0"),)


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text(FILE.replace("sg-none", "sg-2"))
    monkeypatch.setenv("MICROVMD_CONFIG", str(tmp_path / "config.toml"))
    mapping = load().network.egress_map
    first, second = IPv4Network("10.20.0.0/16"), IPv4Network("10.21.0.0/16")
    everything = IPv4Network("0.0.0.0/0")
    assert mapping.subnets == {
        "subnet-1": MappedSubnet((first, second)),
        "subnet-2": MappedSubnet((everything,), frozenset({"123456789012"})),
    }
    assert mapping.groups == {
        "sg-1": (
            GroupRule(first, Protocol.TCP, ((443, 443), (8000, 8100))),
            GroupRule(everything, Protocol.UDP, ((53, 53),)),
        ),
        "sg-2": (),
    }
    assert not mapping.strict


def test_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROVMD_NETWORK_SUBNETS", '{"subnet-1": ["10.20.0.0/16"]}')
    monkeypatch.setenv("MICROVMD_NETWORK_UNMAPPED", "fail")
    mapping = load().network.egress_map
    assert list(mapping.subnets) == ["subnet-1"]
    assert mapping.strict


@pytest.mark.parametrize(
    "wrong",
    [
        {"subnets": {"net-1": ["10.0.0.0/8"]}},
        {"subnets": {"subnet-1": ["10.0.0.1/8"]}},
        {"subnets": {"subnet-1": {"networks": [], "account": []}}},
        {"subnets": {"subnet-1": {"networks": [], "accounts": ["1"]}}},
        {"security_groups": {"sg_1": []}},
        {"security_groups": {"sg-1": [{"cidr": "::/0"}]}},
        {"security_groups": {"sg-1": [{"ports": ["80-"]}]}},
        {"security_groups": {"sg-1": [{"protocol": "all", "ports": [80]}]}},
        {"security_groups": {"sg-1": [{"protocol": "icmp"}]}},
        {"unmapped": "maybe"},
        {"subnets": {"subnet-1": {}}},
        {"subnets": {"subnet-1": {"names": ["*.org"]}}},
        {"subnets": {"subnet-1": {"names": ["a.org"] * 501}}},
        {"security_groups": {"sg-1": [{"protocol": "udp", "names": ["a.org"]}]}},
    ],
)
def test_what_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NetworkSettings.model_validate(wrong)


@pytest.mark.parametrize("text", ["0", "65536", "9-8", "a", "1-2-3", "", "-1", "\uff18\uff10"])
def test_what_is_no_port_range(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|range"):
        port_range(text)


def test_defaults() -> None:
    assert Rule() == Rule(cidr=IPv4Network("0.0.0.0/0"), protocol=Protocol.TCP, ports=())
    assert Subnet.model_validate(["10.0.0.0/8"]).accounts == ()
    assert port_range("80") == (80, 80)


def test_names_stand_for_the_internet_unless_networks_are_given() -> None:
    mapping = NetworkSettings.model_validate(
        {
            "subnets": {
                "subnet-1": {"names": ["PyPI.org.", "*.Example.org"]},
                "subnet-2": {"names": ["git.corp"], "networks": ["10.0.0.0/8"]},
            },
            "security_groups": {"sg-1": [{"names": ["a.org"], "ports": [22]}]},
        }
    ).egress_map
    everything, ten = IPv4Network("0.0.0.0/0"), IPv4Network("10.0.0.0/8")
    assert mapping.subnets == {
        "subnet-1": MappedSubnet((everything,), names=("pypi.org", "*.example.org")),
        "subnet-2": MappedSubnet((ten,), names=("git.corp",)),
    }
    assert mapping.groups["sg-1"] == (GroupRule(everything, Protocol.TCP, ((22, 22),), ("a.org",)),)
