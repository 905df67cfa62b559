"""The packet filter as text: the table of one MicroVM's namespace and the host's own table.

Everything a guest must not do is refused twice where that is possible: in its namespace, and by the
host for whatever leaves a namespace. The host's public addresses stand in no list of private
ranges, so only the host's table protects them. Tables are of family inet: IPv6 meets the same
default, which is to drop.

What a guest may reach is two chains of its table, replaced in one transaction when that changes.
They are asked for every packet of a connection that the guest opened, in both directions, so a
connection ends with the right to have opened it.

What is open by name only is a set of addresses for each `Reach`, filled by the DNS stub, in which
addresses last as long as the answer. A connection outlasts that: it is marked when it is opened,
and the mark is let through as long as the reach is there. To the ports where the name can be seen
connections go through the name guard.
"""

import ipaddress
import zlib
from collections.abc import Iterable, Mapping

from microvmd.model.egress import NAMED_PORTS, Egress, PortRange, Protocol, Reach
from microvmd.node.name_guard import CONNECTIONS, HTTP_PORT, TLS_PORT
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
_NAMED = "from_guest_named"
_GUARDED = "from_guest_guarded"
_GUARD_OUT = "from_guard_out"
_CHANGING = (_EGRESS, _NAMES, _NAMED, _GUARDED, _GUARD_OUT)
PINNED = 4096
"""Addresses that a guest may hold at a time for one list of names."""
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


def denied(
    address: ipaddress.IPv4Address,
    subnet: ipaddress.IPv4Network,
    egress: Egress,
    name: str | None = None,
) -> bool:
    """Whether a guest with this egress, of an instance with this subnet, must not learn the
    address by this name."""
    if address in subnet or any(address in network for network in NEVER):
        return True
    if not any(address in network for network in DENIED):
        return False
    return not any(
        address in reach.network
        for reach in egress.reaches
        if _private(reach.network) and reach.takes(name)
    )


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
            *_pin_sets(egress),
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
                f'iifname "{TAP}" meta l4proto tcp jump {_NAMED}',
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
            "from_guard": [
                "type filter hook output priority 0; policy accept;",
                f'oifname "{UPLINK}" meta l4proto tcp ct direction original jump {_GUARD_OUT}',
            ],
        },
    )


def _local() -> list[str]:
    """The chain of what goes to the namespace itself: metadata, and DNS where there is egress."""
    return [
        "type filter hook input priority 0; policy drop;",
        'iifname "lo" accept',
        f'iifname "{TAP}" ct status dnat jump {_GUARDED}',
        f'iifname "{TAP}" jump {_NAMES}',
        f'iifname "{TAP}" ip daddr {METADATA} tcp dport 80 ct state new '
        "limit rate 50/second burst 100 packets accept",
        "ct state established,related accept",
        f'iifname "{UPLINK}" meta l4proto tcp reject with tcp reset',
        f'iifname "{TAP}" reject with icmp type admin-prohibited',
    ]


def egress_update(settings: NetworkSettings, egress: Egress) -> str:
    """Statements that make a namespace's table keep to this egress from now on. Addresses that
    the guest learned by a name go on being open by a reach that stays."""
    flushed = "".join(f"flush chain inet vm {chain}\n" for chain in _CHANGING)
    return flushed + _table("vm", sets=_pin_sets(egress), chains=_egress_chains(settings, egress))


def pin_update(reach: Reach, addresses: Mapping[ipaddress.IPv4Address, int]) -> str:
    """Statements that open addresses for so many seconds by a reach with names."""
    name = _pin_set(reach)
    lines = []
    for address, seconds in addresses.items():
        # To add what is there already would leave its time as it is.
        lines += [
            f"add element inet vm {name} {{ {address} }}",
            f"delete element inet vm {name} {{ {address} }}",
            f"add element inet vm {name} {{ {address} timeout {seconds}s }}",
        ]
    return "\n".join([*lines, ""])


def _pin_set(reach: Reach) -> str:
    return f"pins_{_mark(reach):08x}"


def _mark(reach: Reach) -> int:
    """Tells what is open by this reach from what is open by others, also after a restart."""
    words = (str(reach.network), _port_ranges(reach.ports), *reach.names)
    return zlib.crc32(" ".join(words).encode()) | 1


def _pin_sets(egress: Egress) -> list[str]:
    names = dict.fromkeys(_pin_set(reach) for reach in egress.named)
    return [f"set {name} {{ type ipv4_addr; flags timeout; size {PINNED}; }}" for name in names]


def egress_check(settings: NetworkSettings, egress: Egress) -> str:
    """A whole table with this egress, for nft to read and not to load."""
    return guest_ruleset(settings, settings.slot(0), egress)


def _egress_chains(settings: NetworkSettings, egress: Egress) -> dict[str, list[str]]:
    """Destinations are those that the guest named: `ct original` also in the answers."""
    limit = f"ct state new ct count over {settings.connections}"
    return {
        _EGRESS: [
            "ct original ip daddr @never goto refused",
            _slowly(settings),
            f"meta l4proto tcp {limit} reject with tcp reset",
            f"meta l4proto != tcp {limit} drop",
            *(rule for reach in egress.reaches for rule in _accept(reach)),
            *(["meta l4proto tcp ct original ip daddr != @denied accept"] * egress.internet),
            "goto refused",
        ],
        _NAMES: _names_rules(egress) if egress.anything else _NO_NAMES,
        **_guard_chains(settings, egress),
    }


def _slowly(settings: NetworkSettings) -> str:
    # Dropped, not refused: who asks again a moment later is let through.
    rate = settings.connection_rate
    return f"ct state new limit rate over {rate}/second burst {2 * rate} packets drop"


def _guard_chains(settings: NetworkSettings, egress: Egress) -> dict[str, list[str]]:
    """How connections get to the name guard, and it to where they were going to.

    What is open whatever the name is left to the forwarding chain.
    """
    free = [reach for reach in egress.reaches if not reach.names]
    skipped = [
        *(f"{_words(reach)} return" for reach in free),
        *(["ct original ip daddr != @denied return"] * egress.internet),
    ]
    guarded = [
        (reach, port, guard)
        for reach in egress.named
        for port, guard in ((443, TLS_PORT), (80, HTTP_PORT))
        if any(first <= port <= last for first, last in reach.ports)
    ]
    marks = sorted({_mark(reach) for reach, _, _ in guarded})
    known = [f"ct state != new ct mark {{ {', '.join(map(str, marks))} }} accept"] * bool(marks)
    opening = [
        f"ct state new {_words(reach)} ct original proto-dst {port} ct mark set {_mark(reach)}"
        for reach, port, _ in guarded
    ]
    return {
        _NAMED: [
            "ct original ip daddr @never return",
            *skipped,
            *(
                f"{rule} redirect to :{guard}"
                for rule, (_, _, guard) in zip(opening, guarded, strict=True)
            ),
        ],
        _GUARDED: [
            _slowly(settings),
            f"ct state new ct count over {CONNECTIONS} reject with tcp reset",
            *(f"ct mark {mark} accept" for mark in marks),
            "reject with tcp reset",
        ],
        _GUARD_OUT: [
            "ct original ip daddr @never drop",
            *known,
            *(f"{rule} accept" for rule in opening),
            "reject with tcp reset",
        ],
    }


def _accept(reach: Reach) -> list[str]:
    if not reach.names:
        return [f"{_words(reach)} accept"]
    ports = list(_without_guarded(reach.ports))
    if not ports:
        return []
    mark = _mark(reach)
    return [
        f"{_words(reach)} ct original proto-dst {{ {_port_ranges(ports)} }} "
        f"ct state new ct mark set {mark} accept",
        f"ct state != new ct mark {mark} accept",
    ]


def _without_guarded(ports: Iterable[PortRange]) -> Iterable[PortRange]:
    """The rest of port ranges without those of the name guard."""
    rest = list(ports)
    for guarded, _ in NAMED_PORTS:
        rest = [
            (low, high)
            for first, last in rest
            for low, high in (
                ((first, guarded - 1), (guarded + 1, last))
                if first <= guarded <= last
                else ((first, last),)
            )
            if low <= high
        ]
    return rest


def _words(reach: Reach) -> str:
    """What a packet of its connections must match, but for the ports of named ones."""
    words = [f"ct original ip daddr {reach.network}"]
    if not _private(reach.network):
        words.append("ct original ip daddr != @denied")
    if reach.names:
        words.append(f"ct original ip daddr @{_pin_set(reach)}")
    if reach.protocol is not Protocol.ALL:
        words.insert(0, f"meta l4proto {reach.protocol}")
        if reach.ports and not reach.names:
            words.append(f"ct original proto-dst {{ {_port_ranges(reach.ports)} }}")
    return " ".join(words)


def _port_ranges(ports: Iterable[PortRange]) -> str:
    """Merged, since nft takes no overlapping intervals."""
    merged: list[PortRange] = []
    for first, last in sorted(ports):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return ", ".join(f"{first}-{last}" for first, last in merged)


def _names_rules(egress: Egress) -> list[str]:
    # Names of a list are the only way out that its owner gave: no more than programs need.
    rate, burst = (200, 400) if egress.any_name else (20, 100)
    resolvers = f"{{ {GATEWAY}, {LINK_RESOLVER} }}"
    return [
        # First of all: a flood from one source port counts as one established connection.
        f"udp dport 53 limit rate over {rate}/second burst {burst} packets drop",
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
