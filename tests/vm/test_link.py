"""The link to a guest: frames that a guest's root makes, and how many bytes pass.

Each frame is shown to arrive when the link's filter is gone.
"""

import asyncio
import json
import socket
import struct
from pathlib import Path

import pytest

from microvmd.node import link, nftables
from microvmd.node.commands import nft, query, tc
from tests.netlab import INTERNET, METADATA, disarm, disarm_link, echo, reaches
from tests.networld import World, client, in_world

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

NOBODY = "198.51.100.99"
"""An address of the internet that answers nothing: a refusal would end the connection."""
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


def packet(source: str = nftables.GUEST, target: str = nftables.GATEWAY) -> bytes:
    """An IPv4 packet of a protocol that nobody speaks; its header's sum is right."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20, 7, 0, 64, 253, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + addresses


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


async def sender(world: World) -> socket.socket:
    """A socket of the guest that sends frames as they are."""
    await world.guest.write("ipv6/conf/eth0/disable_ipv6", "1")  # no frames of the guest's own
    raw = await world.guest.socket(socket.SOCK_RAW, socket.AF_PACKET)
    raw.bind(("eth0", 0))
    return raw


def test_frames_of_no_right_end_at_the_tap(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        path = world.network.path
        await watch(path)
        with await sender(world) as raw:
            for name, bytes_ in ALLOWED.items():
                before = await seen(path)
                raw.send(bytes_)
                assert await seen(path) == before + 1, name
            for name, bytes_ in FRAMES.items():
                before = await seen(path)
                raw.send(bytes_)
                assert await seen(path) == before, name
            await disarm_link(path)
            for name, bytes_ in FRAMES.items():
                before = await seen(path)
                raw.send(bytes_)
                assert await seen(path) == before + 1, name

    in_world(tmp_path, test)


def test_questions_are_answered_at_a_bounded_rate(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        path = world.network.path
        await watch(path)
        question = ALLOWED["question for the gateway"]
        with await sender(world) as raw:
            before = await seen(path)
            for _ in range(2000):
                raw.send(question)
            assert await seen(path) - before < 1000
            await disarm_link(path)
            before = await seen(path)
            for _ in range(2000):
                raw.send(question)
            assert await seen(path) - before == 2000

    in_world(tmp_path, test)


def test_new_connections_are_bounded_in_rate_and_number(tmp_path: Path) -> None:
    """So is what the kernel keeps of them."""

    async def kept(world: World) -> int:
        counts: list[str] = []
        counter = Path("/proc/sys/net/netfilter/nf_conntrack_count")
        await world.visitor.inside(world.network.path, lambda: counts.append(counter.read_text()))
        return int(counts[0])

    async def begin(world: World, ports: range) -> None:
        for port in ports:
            with await world.guest.socket() as begun:
                begun.setblocking(False)
                begun.connect_ex((NOBODY, port))

    async def test(world: World) -> None:
        before = await kept(world)
        await begin(world, range(1000, 2000))
        assert await kept(world) - before <= world.settings.connections
        await disarm(world.network.path, "forwarded")
        await begin(world, range(2000, 3000))
        assert await kept(world) - before > 900

    in_world(tmp_path, test)


async def limited(world: World, qdisc: str) -> int:
    """How often the qdisc held a packet back."""
    entered = ("nsenter", f"--net={world.network.path}", "tc", "-s", "-json", "qdisc", "show")
    listed = json.loads(await query(*entered, "dev", qdisc))
    return sum(int(item["overlimits"]) for item in listed)


def test_bytes_are_held_back_in_both_directions(tmp_path: Path) -> None:
    size = 2 << 20

    async def pass_(world: World) -> None:
        """The guest gets so many bytes from the internet, and sends them back."""
        with await world.internet.socket() as listener, await world.guest.socket() as caller:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((INTERNET, 80))
            listener.listen()
            await asyncio.to_thread(caller.connect, (INTERNET, 80))
            served, _ = await asyncio.to_thread(listener.accept)
            with served:
                for giver, taker in ((served, caller), (caller, served)):
                    giver.settimeout(30)
                    taker.settimeout(30)
                    await asyncio.gather(
                        asyncio.to_thread(giver.sendall, bytes(size)),
                        asyncio.to_thread(_take, taker, size),
                    )

    async def test(world: World) -> None:
        # The plugged guest's veth stands where the tap was.
        await tc(link.shaping(10), world.network.path)
        assert await limited(world, nftables.TAP) == await limited(world, nftables.UPLINK) == 0
        await pass_(world)
        assert await limited(world, nftables.TAP) > 0
        assert await limited(world, nftables.UPLINK) > 0
        await tc(
            [f"qdisc del dev {device} root" for device in (nftables.TAP, nftables.UPLINK)],
            world.network.path,
        )
        await pass_(world)
        assert await limited(world, nftables.TAP) == await limited(world, nftables.UPLINK) == 0

    in_world(tmp_path, test)


def _take(taker: socket.socket, size: int) -> None:
    while size > 0:
        size -= len(taker.recv(min(size, 1 << 16)))


def test_the_edge_passes_the_shaped_link(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        devices = await query("nsenter", f"--net={world.network.path}", "tc", "qdisc", "show")
        assert devices.count(b"tbf") == 2
        with echo(await world.guest.socket(), ("127.0.0.1", 8080)):
            assert await reaches(client(), (world.network.edge_address, 8080))

    in_world(tmp_path, test)
