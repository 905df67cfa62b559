"""Where a guest may connect, as a value; and how the operator's mapping makes one of a connector.

AWS routes a VPC_EGRESS connector into subnets of a VPC. Here the operator says which networks a
subnet id stands for and what a security group lets through. What is not mapped reaches nothing.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from microvmd.model.vpc_connector import Failure, FailureCode, VpcEgress

PortRange = tuple[int, int]
"""First and last port."""


class Protocol(StrEnum):
    """What a security group's rule is about."""

    TCP = "tcp"
    UDP = "udp"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Reach:
    """One network that a version of a connector opens. No ports = all."""

    grant: str
    """Which version of a connector opens it: ``grant_of``."""
    network: IPv4Network
    protocol: Protocol = Protocol.ALL
    ports: tuple[PortRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Egress:
    """All that one guest may reach; nothing by default."""

    internet: bool = False
    """Public addresses over TCP."""
    reaches: tuple[Reach, ...] = ()

    @property
    def anything(self) -> bool:
        return self.internet or bool(self.reaches)

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
    """What a subnet id stands for. ``accounts`` empty = every account may use it."""

    networks: tuple[IPv4Network, ...]
    accounts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GroupRule:
    """One thing that a security group lets out."""

    network: IPv4Network
    protocol: Protocol = Protocol.TCP
    ports: tuple[PortRange, ...] = ()


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
        networks = [network for subnet in mapped if subnet for network in subnet.networks]
        found = (
            Reach(grant, both, rule.protocol, rule.ports)
            for network in networks
            for rule in self._rules(config)
            for both in _overlap(network, rule.network)
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


def _overlap(one: IPv4Network, other: IPv4Network) -> Iterator[IPv4Network]:
    """Two networks are disjoint, or one holds the other."""
    if one.subnet_of(other):
        yield one
    elif other.subnet_of(one):
        yield other
