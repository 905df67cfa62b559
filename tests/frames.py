"""Frames that a guest's root may make, rightly and wrongly, and a count of those that arrive."""

import json
import socket
import struct
from pathlib import Path

from microvmd.node import nftables
from microvmd.node.commands import nft, query
from tests.netlab import INTERNET, METADATA

OTHER_MAC = "02:00:00:00:00:03"
BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"
IPV4, ARP, IPV6, VLAN, QINQ, LLDP = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8, 0x88CC
REQUEST, REPLY = 1, 2


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def frame(
    kind: int,
    payload: bytes,
    *,
    source: str = nftables.GUEST_MAC,
    target: str = nftables.GATEWAY_MAC,
) -> bytes:
    return (mac(target) + mac(source) + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(
    source: str = nftables.GUEST,
    target: str = nftables.GATEWAY,
    protocol: int = 253,
    body: bytes = b"",
) -> bytes:
    """An IPv4 packet; without more words it is of a protocol that nobody speaks."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    words = (0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0)
    head = struct.pack("!BBHHHBBH", *words) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + addresses + body


def redirect(source: str, better: str) -> bytes:
    """An ICMP redirect to the gateway: what goes to the internet had better go by ``better``.

    A kernel that takes redirects does what it says if ``source`` is where it sends that now, and a
    protocol of its own hears of it: this one is about an answer to a ping.
    """
    about = packet(nftables.GATEWAY, INTERNET, protocol=1, body=bytes(8))
    body = struct.pack("!BBH", 5, 1, 0) + socket.inet_aton(better) + about
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return frame(IPV4, packet(source, protocol=1, body=body))


def arp(
    operation: int,
    wanted: str,
    *,
    claimed: str = nftables.GUEST,
    holder: str = nftables.GUEST_MAC,
) -> bytes:
    about = mac(holder) + socket.inet_aton(claimed) + bytes(6) + socket.inet_aton(wanted)
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + about


def tagged(tag: int, kind: int, payload: bytes) -> bytes:
    return struct.pack("!HH", tag, kind) + payload


FRAMES = {
    "hardware address of another": frame(IPV4, packet(), source=OTHER_MAC),
    "address of another": frame(IPV4, packet("172.16.0.3")),
    "address of the gateway": frame(IPV4, packet(nftables.GATEWAY)),
    "loopback to elsewhere": frame(IPV4, packet("127.0.0.1", INTERNET)),
    "question for another": frame(ARP, arp(REQUEST, "172.16.0.3"), target=BROADCAST),
    "question in another's name": frame(
        ARP, arp(REQUEST, nftables.GATEWAY, claimed="172.16.0.3"), target=BROADCAST
    ),
    "claim to be the gateway": frame(
        ARP, arp(REPLY, nftables.GATEWAY, claimed=nftables.GATEWAY), target=BROADCAST
    ),
    "claim with another's hardware": frame(
        ARP, arp(REPLY, nftables.GATEWAY, holder=OTHER_MAC), target=BROADCAST
    ),
    "group of neighbours": frame(LLDP, b"\x02\x07", target="01:80:c2:00:00:0e"),
    "router advertisement": frame(IPV6, b"\x60" + bytes(60), target=ALL_NODES),
    "IPv6 to the gateway": frame(IPV6, b"\x60" + bytes(60)),
    "VLAN": frame(VLAN, tagged(5, IPV4, packet())),
    "VLAN 0, which counts as none": frame(VLAN, tagged(0, IPV4, packet())),
    "VLAN in a VLAN": frame(QINQ, tagged(5, VLAN, tagged(6, IPV4, packet()))),
    "type that nobody knows": frame(0x9999, b"?"),
}
ALLOWED = {
    "packet": frame(IPV4, packet()),
    "answer of a server on loopback": frame(IPV4, packet("127.0.0.1")),
    "question for the gateway": frame(ARP, arp(REQUEST, nftables.GATEWAY), target=BROADCAST),
    "question for the metadata address": frame(ARP, arp(REQUEST, METADATA), target=BROADCAST),
}


async def watch(path: Path) -> None:
    """Count what comes through the link's filter."""
    await nft(
        "table netdev seen {\n counter frames { }\n chain c {\n"
        f'type filter hook ingress device "{nftables.TAP}" priority 0;\n'
        "counter name frames\n}\n}\n",
        path,
    )


async def seen(path: Path) -> int:
    enter = ("nsenter", f"--net={path}", "nft", "--json", "list", "counter", "netdev", "seen")
    listed = json.loads(await query(*enter, "frames"))
    return next(int(item["counter"]["packets"]) for item in listed["nftables"] if "counter" in item)
