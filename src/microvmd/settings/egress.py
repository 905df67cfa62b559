"""The operator's mapping of subnet and security group ids, as the configuration file has it.

::

    [network.subnets]
    subnet-1 = ["10.20.0.0/16"]
    subnet-2 = {networks = ["0.0.0.0/0"], accounts = ["123456789012"]}
    subnet-3 = {names = ["pypi.example", "*.example.org"]}

    [network.security_groups]
    sg-1 = [{cidr = "10.20.0.0/16", ports = [443, "8000-8100"]}, {protocol = "udp", ports = [53]}]
"""

import re
from ipaddress import IPv4Network
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from microvmd.model.egress import EgressMap, GroupRule, MappedSubnet, PortRange, Protocol
from microvmd.model.names import parse_pattern

# As lambda-core's model spells them.
_SUBNET = re.compile(r"subnet-[0-9a-z]*")
_GROUP = re.compile(r"sg-[0-9a-zA-Z]*")


def port_range(text: str) -> PortRange:
    """``443`` or ``8000-8100``; ValueError for what is neither."""
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if found is None:
        raise ValueError(f"{text!r} is neither a port nor a range such as 8000-8100")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 0 < first <= last < 1 << 16:
        raise ValueError(f"{text!r}: ports go from 1 to 65535, the lower first")
    return first, last


MOST_NAMES = 500
Names = Annotated[
    tuple[Annotated[str, AfterValidator(parse_pattern)], ...], Field(max_length=MOST_NAMES)
]
"""Patterns of names, as ``model.names`` has them."""


def _named(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(mapping: dict[str, Any]) -> dict[str, Any]:
        wrong = [name for name in mapping if pattern.fullmatch(name) is None]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no id of a {what}: wanted {pattern.pattern}")
        return mapping

    return AfterValidator(check)


class Subnet(BaseModel):
    """A subnet id stands for these networks; for every account if none is named. With names it
    stands for what these lead to, in the whole internet if no networks are given: an empty list
    stands for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    networks: tuple[IPv4Network, ...] | None = None
    names: Names = ()
    accounts: tuple[Annotated[str, Field(pattern=r"^\d{12}$")], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _list_of_networks(cls, value: object) -> object:
        return {"networks": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.names and self.networks is None:
            raise ValueError("networks or names are needed")
        return self


class Rule(BaseModel):
    """One thing that a security group lets out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cidr: IPv4Network = IPv4Network("0.0.0.0/0")
    protocol: Protocol = Protocol.TCP
    ports: tuple[Annotated[str, BeforeValidator(str)], ...] = ()
    names: Names = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for text in self.ports:
            port_range(text)
        if self.ports and self.protocol is Protocol.ALL:
            raise ValueError("ports need protocol tcp or udp")
        if self.names and self.protocol is not Protocol.TCP:
            raise ValueError("names need protocol tcp")
        return self


Subnets = Annotated[dict[str, Subnet], _named(_SUBNET, "subnet")]
Groups = Annotated[dict[str, tuple[Rule, ...]], _named(_GROUP, "security group")]


def egress_map(subnets: Subnets, groups: Groups, *, strict: bool) -> EgressMap:
    """The mapping as the control plane wants it."""
    return EgressMap(
        {name: _mapped(subnet) for name, subnet in subnets.items()},
        {
            name: tuple(
                GroupRule(rule.cidr, rule.protocol, tuple(map(port_range, rule.ports)), rule.names)
                for rule in rules
            )
            for name, rules in groups.items()
        },
        strict=strict,
    )


def _mapped(subnet: Subnet) -> MappedSubnet:
    networks = subnet.networks
    if networks is None:
        networks = (IPv4Network("0.0.0.0/0"),)
    return MappedSubnet(networks, frozenset(subnet.accounts), subnet.names)
