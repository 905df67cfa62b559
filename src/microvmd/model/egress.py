"""Where a guest may connect, as a value; and how the operator's mapping makes one of a connector.

AWS routes a VPC_EGRESS connector into subnets of a VPC. Here the operator says which networks a
subnet id stands for and what a security group lets through. What is not mapped reaches nothing.

Networks can be narrowed to names: then only those addresses are open that the guest's DNS stub has
given as an answer to one of the names, over TCP.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from microvmd.model.names import common, matches
from microvmd.model.vpc_connector import Failure, FailureCode, VpcEgress

PortRange = tuple[int, int]
"""First and last port."""


NAMED_PORTS: tuple[PortRange, ...] = ((80, 80), (443, 443))
"""What names open where no ports are given: there the name is checked in the connection too."""


class Protocol(StrEnum):
    """What a security group's rule is about."""

    TCP = "tcp"
    UDP = "udp"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Reach:
    """One network that a version of a connector opens. No ports = all, no names = every address of
    the network."""

    grant: str
    """Which version of a connector opens it: ``grant_of``."""
    network: IPv4Network
    protocol: Protocol = Protocol.ALL
    ports: tuple[PortRange, ...] = ()
    names: tuple[str, ...] = ()
    """Patterns (``model.names``). With them the protocol is TCP, and there are ports."""

    def takes(self, name: str | None) -> bool:
        """Whether it opens addresses that the guest got for this name."""
        return not self.names or (
            name is not None and any(matches(pattern, name) for pattern in self.names)
        )


@dataclass(frozen=True, slots=True)
class Egress:
    """All that one guest may reach; nothing by default."""

    internet: bool = False
    """Public addresses over TCP."""
    reaches: tuple[Reach, ...] = ()

    @property
    def anything(self) -> bool:
        return self.internet or bool(self.reaches)

    @property
    def named(self) -> tuple[Reach, ...]:
        """What is open by name only."""
        return tuple(reach for reach in self.reaches if reach.names)

    @property
    def patterns(self) -> frozenset[str]:
        """Every name that opens something."""
        return frozenset(name for reach in self.reaches for name in reach.names)

    @property
    def any_name(self) -> bool:
        """Whether every name may be resolved, and not only those of ``patterns``."""
        return self.internet or len(self.named) < len(self.reaches)

    def resolves(self, name: str) -> bool:
        """Whether the guest may ask for this name."""
        return self.any_name or any(reach.takes(name) for reach in self.reaches)

    def without(self, grants: Collection[str]) -> "Egress":
        """What is left when these versions of connectors are gone."""
        kept = tuple(reach for reach in self.reaches if reach.grant not in grants)
        return self if len(kept) == len(self.reaches) else Egress(self.internet, kept)

    def names(self, address: IPv4Address) -> bool:
        """Whether a connector opens some port of the address."""
        return any(address in reach.network for reach in self.reaches)


INTERNET = Egress(internet=True)
NOTHING = Egress()


def grant_of(connector_id: str, number: int) -> str:
    return f"{connector_id}:{number}"


@dataclass(frozen=True, slots=True)
class MappedSubnet:
    """What a subnet id stands for: of its networks what the names lead to, all if there are no
    names. ``accounts`` empty = every account may use it."""

    networks: tuple[IPv4Network, ...]
    accounts: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupRule:
    """One thing that a security group lets out."""

    network: IPv4Network
    protocol: Protocol = Protocol.TCP
    ports: tuple[PortRange, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EgressMap:
    """The operator's meaning of subnet and security group ids. ``strict``: an id that is not
    mapped makes a connector FAILED instead of one that reaches nothing."""

    subnets: Mapping[str, MappedSubnet] = field(default_factory=dict)
    groups: Mapping[str, tuple[GroupRule, ...]] = field(default_factory=dict)
    strict: bool = False

    def failure(self, account: str, config: VpcEgress) -> Failure | None:
        """Why a connector of this account cannot be provisioned."""
        if not self.strict:
            return None
        for subnet in config.subnets:
            if self._subnet(account, subnet) is None:
                return Failure(
                    FailureCode.INVALID_SUBNET,
                    f"The subnet {subnet} is mapped to no network by network.subnets.",
                )
        for group in config.security_groups or ():
            if group not in self.groups:
                return Failure(
                    FailureCode.INVALID_SECURITY_GROUP,
                    f"The security group {group} is not defined by network.security_groups.",
                )
        return None

    def reaches(self, account: str, grant: str, config: VpcEgress) -> tuple[Reach, ...]:
        """What a version opens: the networks of its subnets, and of these what its security groups
        let out. Without a group everything is let out, as by the default group of a VPC."""
        mapped = [self._subnet(account, subnet) for subnet in config.subnets]
        found = (
            reach
            for subnet in mapped
            if subnet
            for network in subnet.networks
            for rule in self._rules(config)
            for both in _overlap(network, rule.network)
            for reach in _cut(
                Reach(grant, both, rule.protocol, rule.ports), subnet.names, rule.names
            )
        )
        return tuple(dict.fromkeys(found))

    def _subnet(self, account: str, subnet: str) -> MappedSubnet | None:
        mapped = self.subnets.get(subnet)
        allowed = mapped is not None and (not mapped.accounts or account in mapped.accounts)
        return mapped if allowed else None

    def _rules(self, config: VpcEgress) -> tuple[GroupRule, ...]:
        if not config.security_groups:
            return (GroupRule(IPv4Network("0.0.0.0/0"), Protocol.ALL),)
        return tuple(
            rule for group in config.security_groups for rule in self.groups.get(group, ())
        )


def _cut(reach: Reach, one: tuple[str, ...], other: tuple[str, ...]) -> Iterator[Reach]:
    """The reach, narrowed to what both lists of names allow; an empty list allows every name."""
    if not one and not other:
        yield reach
        return
    both = [name for mine in one for theirs in other for name in common(mine, theirs)]
    names = both if one and other else [*one, *other]
    if names and reach.protocol is not Protocol.UDP:
        kept = tuple(sorted(set(names)))
        yield Reach(reach.grant, reach.network, Protocol.TCP, reach.ports or NAMED_PORTS, kept)


def _overlap(one: IPv4Network, other: IPv4Network) -> Iterator[IPv4Network]:
    """Two networks are disjoint, or one holds the other."""
    if one.subnet_of(other):
        yield one
    elif other.subnet_of(one):
        yield other
