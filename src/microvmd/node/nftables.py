"""The packet filter as text: the table of one MicroVM's namespace and the host's own table.

Everything a guest must not do is refused twice where that is possible: in its namespace, and by the
host for whatever leaves a namespace. The host's public addresses stand in no list of private
ranges, so only the host's table protects them. Tables are of family inet: IPv6 meets the same
default, which is to drop.

What a guest may reach is two chains of its table, replaced in one transaction when that changes.
They are asked for every packet of a connection that the guest opened, in both directions, so a
connection ends with the right to have opened it.
"""

import ipaddress
from collections.abc import Iterable

from microvmd.model.egress import Egress, PortRange, Protocol, Reach
from microvmd.node.slots import NetworkSettings, Slot

GUEST = "172.16.0.2"
GUEST_MAC = "02:00:00:00:00:02"
GATEWAY = "172.16.0.1"
GATEWAY_MAC = "02:00:00:00:00:01"
GUEST_PREFIX = 30
LINK_RESOLVER = "169.254.169.253"
"""AWS serves DNS there too, for containers in the guest that cannot use the gateway's address."""
METADATA = "169.254.169.254"
"""Where AWS serves a guest's metadata, credentials among it."""
TAP = "tap0"
UPLINK = "eth0"
_HOST_TABLE = "microvmd_"
GUARD = "only_ours"
"""Chain of a host's table that says: forwarding was off before the first instance."""
_EGRESS = "from_guest_out"
_NAMES = "from_guest_names"
_NO_NAMES = [
    "udp dport 53 reject with icmp type admin-prohibited",
    "tcp dport 53 reject with tcp reset",
]
GROUP = 0x6D76
"""Interface group of every veth of every instance: rules can name them all."""

DENIED = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/3",
    )
)
"""Not the internet, by address or by name: private, shared, special, multicast."""
NEVER = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        f"{GATEWAY}/32",
        f"{GUEST}/32",
        "224.0.0.0/3",
    )
)
"""What no connector opens either: loopback, metadata, the guest's own link, multicast."""


def denied(address: ipaddress.IPv4Address, subnet: ipaddress.IPv4Network, egress: Egress) -> bool:
    """Whether a guest with this egress, of an instance with this subnet, must not learn the
    address by a name."""
    if address in subnet or any(address in network for network in NEVER):
        return True
    if not any(address in network for network in DENIED):
        return False
    return not any(address in reach.network for reach in egress.reaches if _private(reach.network))


def _private(network: ipaddress.IPv4Network) -> bool:
    """Whether a connector's network opens private addresses: it must lie in a private range, so
    that 0.0.0.0/0 means the internet and not the operator's own networks."""
    return any(network.subnet_of(range_) for range_ in DENIED)


def host_table(settings: NetworkSettings) -> str:
    return f"{_HOST_TABLE}{settings.prefix}"


def is_host_table(name: str) -> bool:
    """Whether the table is the host's table of some instance."""
    return name.startswith(_HOST_TABLE)


def _networks(networks: Iterable[ipaddress.IPv4Network]) -> str:
    return ", ".join(str(item) for item in ipaddress.collapse_addresses(networks))


def guest_ruleset(
    settings: NetworkSettings,
    slot: Slot,
    egress: Egress,
    blocked_ports: Iterable[int] = (),
) -> str:
    """The table of one namespace.

    The edge's connections get the guest's loopback address as destination, statelessly and after
    address translation, so that applications bound to 127.0.0.1 answer (the guest has
    route_localnet on); the reverse rewriting comes before the connection is looked up. Only the
    original direction is rewritten, or answers of the DNS stub over TCP would be too.
    """
    return _table(
        "vm",
        sets=[
            "set denied { type ipv4_addr; flags interval; "
            f"elements = {{ {_networks([*DENIED, settings.subnet])} }}; }}",
            "set never { type ipv4_addr; flags interval; "
            f"elements = {{ {_networks([*NEVER, settings.subnet])} }}; }}",
            _ports("blocked_ports", blocked_ports),
        ],
        chains={
            "from_guest": [
                "type filter hook prerouting priority -400; policy accept;",
                f'iifname "{TAP}" ip saddr 127.0.0.1 ip daddr {GATEWAY} ip saddr set {GUEST}',
                f'iifname "{TAP}" ip saddr {GUEST} accept',
                f'iifname "{TAP}" drop',
                "meta nfproto ipv6 drop",
            ],
            "edge_in": [
                "type nat hook prerouting priority -100; policy accept;",
                f'iifname "{UPLINK}" ip saddr {slot.root_address} ip daddr {slot.edge_address} '
                f"tcp dport != @blocked_ports dnat ip to {GUEST}",
            ],
            "translate": [
                "type nat hook postrouting priority 100; policy accept;",
                f'oifname "{TAP}" snat ip to {GATEWAY}',
                f'oifname "{UPLINK}" masquerade',
            ],
            "to_guest": [
                "type filter hook postrouting priority 300; policy accept;",
                f'oifname "{TAP}" ct direction original ip saddr {GATEWAY} ip daddr {GUEST} '
                "ip protocol tcp ip daddr set 127.0.0.1",
            ],
            "refused": [
                # An open connection ends by a reset only: it takes no notice of the other answer.
                f'iifname "{TAP}" ct state established meta l4proto tcp reject with tcp reset',
                f'iifname "{TAP}" reject with icmp type admin-prohibited',
                "drop",
            ],
            **_egress_chains(settings, egress),
            "forwarded": [
                "type filter hook forward priority 0; policy drop;",
                f'iifname "{UPLINK}" tcp dport @blocked_ports reject with tcp reset',
                "ct state invalid drop",
                "ct state related accept",
                f'iifname "{TAP}" ct direction original jump {_EGRESS}',
                f'iifname "{UPLINK}" ct direction reply jump {_EGRESS}',
                "ct state established accept",
                f'iifname "{UPLINK}" oifname "{TAP}" ct status dnat accept',
                f'iifname "{TAP}" reject with icmp type admin-prohibited',
            ],
            "local": _local(),
        },
    )


def _local() -> list[str]:
    """The chain of what goes to the namespace itself: metadata, and DNS where there is egress."""
    return [
        "type filter hook input priority 0; policy drop;",
        'iifname "lo" accept',
        f'iifname "{TAP}" jump {_NAMES}',
        f'iifname "{TAP}" ip daddr {METADATA} tcp dport 80 ct state new '
        "limit rate 50/second burst 100 packets accept",
        "ct state established,related accept",
        f'iifname "{UPLINK}" meta l4proto tcp reject with tcp reset',
        f'iifname "{TAP}" reject with icmp type admin-prohibited',
    ]


def egress_update(settings: NetworkSettings, egress: Egress) -> str:
    """Statements that make a namespace's table keep to this egress from now on."""
    flushed = "".join(f"flush chain inet vm {chain}\n" for chain in (_EGRESS, _NAMES))
    return flushed + _table("vm", sets=[], chains=_egress_chains(settings, egress))


def egress_check(settings: NetworkSettings, egress: Egress) -> str:
    """A whole table with this egress, for nft to read and not to load."""
    return guest_ruleset(settings, settings.slot(0), egress)


def _egress_chains(settings: NetworkSettings, egress: Egress) -> dict[str, list[str]]:
    """Destinations are those that the guest named: `ct original` also in the answers."""
    limit = f"ct state new ct count over {settings.connections}"
    return {
        _EGRESS: [
            "ct original ip daddr @never goto refused",
            # Dropped, not refused: who asks again a moment later is let through.
            f"ct state new limit rate over {settings.connection_rate}/second "
            f"burst {2 * settings.connection_rate} packets drop",
            f"meta l4proto tcp {limit} reject with tcp reset",
            f"meta l4proto != tcp {limit} drop",
            *map(_accept, egress.reaches),
            *(["meta l4proto tcp ct original ip daddr != @denied accept"] * egress.internet),
            "goto refused",
        ],
        _NAMES: _names_rules() if egress.anything else _NO_NAMES,
    }


def _accept(reach: Reach) -> str:
    words = [f"ct original ip daddr {reach.network}"]
    if not _private(reach.network):
        words.append("ct original ip daddr != @denied")
    if reach.protocol is not Protocol.ALL:
        words.insert(0, f"meta l4proto {reach.protocol}")
        if reach.ports:
            words.append(f"ct original proto-dst {{ {_port_ranges(reach.ports)} }}")
    return " ".join([*words, "accept"])


def _port_ranges(ports: Iterable[PortRange]) -> str:
    """Merged, since nft takes no overlapping intervals."""
    merged: list[PortRange] = []
    for first, last in sorted(ports):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return ", ".join(f"{first}-{last}" for first, last in merged)


def _names_rules() -> list[str]:
    resolvers = f"{{ {GATEWAY}, {LINK_RESOLVER} }}"
    return [
        # First of all: a flood from one source port counts as one established connection.
        "udp dport 53 limit rate over 200/second burst 400 packets drop",
        f"ip daddr {resolvers} udp dport 53 accept",
        f"ip daddr {resolvers} tcp dport 53 ct state new "
        "limit rate 20/second burst 40 packets accept",
    ]


def host_ruleset(settings: NetworkSettings, *, only_ours: bool) -> str:
    """The host's table of one instance, replacing an older one in the same transaction.

    `only_ours`: forwarding was off before us, so the host goes on to forward nothing that neither
    comes from nor goes to a MicroVM. Interfaces of other instances count as ours there.
    """
    ours = f'"{settings.prefix}*"'
    table = host_table(settings)
    guard = [
        "type filter hook forward priority -10; policy accept;",
        f"iifgroup != {GROUP} oifgroup != {GROUP} drop",
    ]
    text = _table(
        table,
        sets=[],
        chains={
            "to_host": [
                "type filter hook input priority -10; policy accept;",
                f"iifname {ours} ct state established,related accept",
                f"iifname {ours} drop",
            ],
            "forwarded": [
                "type filter hook forward priority -10; policy accept;",
                f"iifname {ours} ip saddr != {settings.subnet} drop",
                f"iifname {ours} meta nfproto ipv6 drop",
                f"iifname {ours} oifgroup {GROUP} drop",
                f"oifname {ours} ct state != {{ established, related }} drop",
            ],
            **({GUARD: guard} if only_ours else {}),
            "translate": [
                "type nat hook postrouting priority 100; policy accept;",
                f"ip saddr {settings.subnet} oifname != {ours} masquerade",
            ],
        },
    )
    return f"table inet {table}\ndelete table inet {table}\n{text}"


def block_ports(ports: Iterable[int]) -> str:
    """Statement that adds to the blocked ports of a namespace's table."""
    return f"add element inet vm blocked_ports {{ {_port_list(ports)} }}\n"


def _port_list(ports: Iterable[int]) -> str:
    numbers = sorted(set(ports))
    if any(not 0 < number < 1 << 16 for number in numbers):
        raise ValueError(f"not a port: {numbers}")
    return ", ".join(map(str, numbers))


def _ports(name: str, ports: Iterable[int]) -> str:
    elements = _port_list(ports)
    filled = f" elements = {{ {elements} }};" if elements else ""
    return f"set {name} {{ type inet_service;{filled} }}"


def _table(name: str, *, sets: list[str], chains: dict[str, list[str]]) -> str:
    # nft wants the closing brace of a chain on a line of its own.
    lines = [f"table inet {name} {{", *(f"  {item}" for item in sets)]
    for chain, rules in chains.items():
        lines += [f"  chain {chain} {{", *(f"    {rule}" for rule in rules), "  }"]
    return "\n".join([*lines, "}", ""])
