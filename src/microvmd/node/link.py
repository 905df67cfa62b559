"""The link to a guest: which frames may come from it, and how many bytes a second pass.

A guest that is root makes frames as it likes. What is not IPv4 or ARP from its own addresses to the
gateway ends at the tap, before anything of the kernel's reads it: VLAN tags, IPv6 with its router
advertisements, frames to groups, another's hardware address. The packet filter behind it judges
what is left by its destination. Shaping holds bytes back on both ways instead of dropping them; it
is what keeps one guest from taking the whole uplink.
"""

from microvmd.node import nftables

TABLE = "link"
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_ASKED = (nftables.GATEWAY, nftables.METADATA, nftables.LINK_RESOLVER)
"""Whose hardware address a guest may ask for; a route of its own to 169.254/16 makes it do so."""
_BURST = "256kb"
"""Four of the largest packets that a guest may hand over whole."""
_LATENCY = "50ms"


def ruleset() -> str:
    """The table of one namespace, whose tap is there already."""
    guest, mac = nftables.GUEST, nftables.GUEST_MAC
    rules = [
        f'type filter hook ingress device "{nftables.TAP}" priority -500; policy drop;',
        f"ether saddr != {mac} drop",
        f"ether daddr != {{ {nftables.GATEWAY_MAC}, {_BROADCAST} }} drop",
        # A frame with a VLAN tag has another type, and that of the tag 0 too.
        # The gateway asks for the loopback address, which is the destination by then, and the guest
        # learns from that question who the gateway is.
        f"ether type arp arp saddr ether {mac} arp saddr ip {{ {guest}, 127.0.0.1 }} "
        f"arp daddr ip {{ {', '.join(_ASKED)} }} limit rate 50/second burst 100 packets accept",
        f"ether type ip ip saddr {guest} accept",
        # Answers of what listens on the guest's loopback; the packet filter rewrites them.
        f"ether type ip ip saddr 127.0.0.1 ip daddr {nftables.GATEWAY} accept",
    ]
    return "\n".join([f"table netdev {TABLE} {{", "  chain from_guest {", *rules, "  }", "}", ""])


def shaping(bandwidth_mbit: int) -> list[str]:
    """Commands of tc(8) for one namespace; none where 0 says that there is no limit."""
    if bandwidth_mbit <= 0:
        return []
    limit = f"tbf rate {bandwidth_mbit}mbit burst {_BURST} latency {_LATENCY}"
    return [
        f"qdisc replace dev {device} root {limit}" for device in (nftables.TAP, nftables.UPLINK)
    ]
