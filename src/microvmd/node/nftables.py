"""The packet filter as text: the table of one MicroVM's namespace and the host's own table.

Everything a guest must not do is refused twice where that is possible: in its namespace, and by the
host for whatever leaves a namespace. The host's public addresses stand in no list of private
ranges, so only the host's table protects them. Tables are of family inet: IPv6 meets the same
default, which is to drop.
"""

import ipaddress
from collections.abc import Iterable

from microvmd.node.slots import EgressPolicy, NetworkSettings, Slot

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
"""Never reachable from a guest, by address or by name: private, shared, special, multicast."""


def denied(address: ipaddress.IPv4Address, subnet: ipaddress.IPv4Network) -> bool:
    """Whether a guest of an instance with this subnet must not reach the address."""
    return address in subnet or any(address in network for network in DENIED)


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
    egress: EgressPolicy,
    blocked_ports: Iterable[int] = (),
) -> str:
    """The table of one namespace.

    The edge's connections get the guest's loopback address as destination, statelessly and after
    address translation, so that applications bound to 127.0.0.1 answer (the guest has
    route_localnet on); the reverse rewriting comes before the connection is looked up. Only the
    original direction is rewritten, or answers of the DNS stub over TCP would be too.
    """
    internet = egress is EgressPolicy.INTERNET
    tcp_out = [
        f'iifname "{TAP}" oifname "{UPLINK}" meta l4proto tcp '
        f"ct count over {settings.connections} reject with tcp reset",
        f'iifname "{TAP}" oifname "{UPLINK}" meta l4proto tcp accept',
    ]
    return _table(
        "vm",
        sets=[
            "set denied { type ipv4_addr; flags interval; "
            f"elements = {{ {_networks([*DENIED, settings.subnet])} }}; }}",
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
            "forwarded": [
                "type filter hook forward priority 0; policy drop;",
                f'iifname "{UPLINK}" tcp dport @blocked_ports reject with tcp reset',
                "ct state established,related accept",
                "ct state invalid drop",
                f'iifname "{UPLINK}" oifname "{TAP}" ct status dnat accept',
                f'iifname "{TAP}" ip daddr @denied reject with icmp type admin-prohibited',
                *(tcp_out if internet else []),
                f'iifname "{TAP}" reject with icmp type admin-prohibited',
            ],
            "local": _local(names=internet),
        },
    )


def _local(*, names: bool) -> list[str]:
    """The chain of what goes to the namespace itself: metadata, and DNS where there is egress."""
    resolvers = f"{{ {GATEWAY}, {LINK_RESOLVER} }}"
    dns_new = [
        # First of all: a flood from one source port counts as one established connection.
        f'iifname "{TAP}" udp dport 53 limit rate over 200/second burst 400 packets drop',
        f'iifname "{TAP}" ip daddr {resolvers} udp dport 53 accept',
        f'iifname "{TAP}" ip daddr {resolvers} tcp dport 53 ct state new '
        "limit rate 20/second burst 40 packets accept",
    ]
    return [
        "type filter hook input priority 0; policy drop;",
        'iifname "lo" accept',
        *(dns_new if names else []),
        f'iifname "{TAP}" ip daddr {METADATA} tcp dport 80 ct state new '
        "limit rate 50/second burst 100 packets accept",
        "ct state established,related accept",
        f'iifname "{UPLINK}" meta l4proto tcp reject with tcp reset',
        f'iifname "{TAP}" reject with icmp type admin-prohibited',
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
