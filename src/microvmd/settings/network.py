"""The table ``[network]``: addresses, limits, and what network connectors lead to."""

from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from pydantic import Field

from microvmd.model.egress import EgressMap
from microvmd.model.vpc_connector import ConnectorLimits
from microvmd.settings.egress import Groups, Subnets, egress_map
from microvmd.settings.section import Section


class NetworkSettings(Section):
    """How MicroVMs are connected."""

    prefix: str = Field(
        default="mvm",
        pattern=r"^([a-z][a-z0-9]{0,5})?[a-z]$",
        description="begin of the names of interfaces, namespaces and tables on this machine, "
        "ending in a letter; two services on one machine need two",
    )
    subnet: IPv4Network = Field(
        default=IPv4Network("10.200.0.0/16"),
        description="addresses between this machine and its MicroVMs, four for each; "
        "must not be in use elsewhere",
    )
    pool: int = Field(default=4, ge=0, le=64, description="networks made ready in advance")
    dns: tuple[IPv4Address, ...] = Field(
        default=(), description="name servers for MicroVMs; none means those of /etc/resolv.conf"
    )
    connections: int = Field(
        default=2000,
        ge=1,
        le=1_000_000,
        description="connections that one MicroVM may have open to the outside at a time",
    )
    connection_rate: int = Field(
        default=200,
        ge=1,
        le=1_000_000,
        description="connections to the outside that one MicroVM may begin per second, and twice "
        "as many at once; those beyond that come later",
    )
    bandwidth_mbit: int = Field(
        default=500,
        ge=0,
        le=1_000_000,
        description="Mbit per second that one MicroVM may send, and as many that it may receive, "
        "its endpoint included; 0 is no limit",
    )
    subnets: Subnets = Field(
        default={},
        description="networks and names that subnet ids of network connectors stand for, a table; "
        "what is not in it reaches nothing",
    )
    security_groups: Groups = Field(
        default={},
        description="what security group ids of network connectors let out, a table; "
        "what is not in it lets out nothing",
    )
    unmapped: Literal["isolate", "fail"] = Field(
        default="isolate",
        description="a connector with an id that is in neither table: isolate makes one that "
        "reaches nothing there, fail makes it FAILED",
    )
    connectors: int = Field(default=100, ge=1, description="most network connectors of an account")
    connector_versions: int = Field(
        default=100, ge=1, description="most versions of a network connector"
    )

    @property
    def connector_limits(self) -> ConnectorLimits:
        return ConnectorLimits(self.connectors, self.connector_versions)

    @property
    def egress_map(self) -> EgressMap:
        return egress_map(self.subnets, self.security_groups, strict=self.unmapped == "fail")
