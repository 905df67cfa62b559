"""What a guest's root with every capability reaches, and what of its frames arrives.

Single layers of the defence are shown one by one in tests/vm/test_network.py and test_link.py;
here a real guest meets all of them, and then none.
"""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from microvmd.node import nftables
from microvmd.node.commands import ip, nft, query
from microvmd.node.namespace import Visitor
from tests import netlab
from tests.attacklab import Attacker, attacker
from tests.frames import FRAMES, OTHER_MAC, redirect, seen, watch
from tests.netlab import (
    HOST_PUBLIC,
    INTERNET,
    LINK_LOCAL,
    METADATA,
    PRIVATE,
    Place,
    disarm,
    disarm_host,
    disarm_link,
    echo,
)
from tests.nodelab import LIMIT, NodeLab

pytestmark = [pytest.mark.vm, pytest.mark.security, pytest.mark.anyio]

PORT = 7777
HELLO = "hello"
GROUP = "224.0.0.251"


@asynccontextmanager
async def world(lab: NodeLab, directory: Path) -> AsyncIterator[tuple[Attacker, Attacker, Place]]:
    """An attacker, its victim on the same node, and the internet; the visitor is in its places."""
    async with contextlib.AsyncExitStack() as stack:
        visitor = stack.enter_context(Visitor())
        node = await stack.enter_async_context(lab.node())
        one = await stack.enter_async_context(attacker(node))
        other = await stack.enter_async_context(attacker(node))
        inet = await stack.enter_async_context(netlab.internet(visitor, directory / "inet"))
        yield one, other, inet


async def disarm_filter(guest: Attacker) -> None:
    """Without the packet filter of its namespace."""
    await disarm(guest.network, "from_guest", "forwarded", "local")
    # No defence: it lets the test's own requests be answered.
    loopback = f'iifname "{nftables.TAP}" ip saddr 127.0.0.1 ip daddr {nftables.GATEWAY}'
    rule = f"add rule inet vm from_guest {loopback} ip saddr set {nftables.GUEST}\n"
    await nft(rule, guest.network)


async def disarm_all(one: Attacker, other: Attacker) -> None:
    """No defence is left but the separate namespaces themselves."""
    for guest in (one, other):
        await disarm_link(guest.network)
        await disarm_filter(guest)
    await disarm_host(one.node.lab.network_settings, "to_host", "forwarded")


async def test_a_guest_reaches_neither_host_nor_neighbour_nor_private_networks(
    attack_lab: NodeLab, tmp_path: Path
) -> None:
    async with world(attack_lab, tmp_path) as (one, other, inet):
        ours, theirs = one.place(inet.visitor), other.place(inet.visitor)
        targets = [
            ("tcp", nftables.GATEWAY, await ours.socket()),
            ("tcp", one.address, await ours.socket()),
            ("tcp", METADATA, await ours.socket()),
            ("tcp", one.root_address, socket.socket()),
            ("tcp", HOST_PUBLIC, socket.socket()),
            ("tcp", other.root_address, socket.socket()),
            ("tcp", other.address, await theirs.socket()),
            ("tcp", PRIVATE, await inet.socket()),
            ("tcp", LINK_LOCAL, await inet.socket()),
            ("udp", INTERNET, await inet.socket(socket.SOCK_DGRAM)),
            ("udp", HOST_PUBLIC, socket.socket(type=socket.SOCK_DGRAM)),
        ]
        with contextlib.ExitStack() as stack:
            for _, address, listener in targets:
                stack.enter_context(echo(listener, (address, PORT)))
            for kind, address, _ in targets:
                assert await one.does(kind, address, PORT) != HELLO, (kind, address)
            await disarm_all(one, other)
            for kind, address, _ in targets:
                assert await one.does(kind, address, PORT) == HELLO, (kind, address)


async def test_nobody_hears_what_a_guest_says_to_all(attack_lab: NodeLab, tmp_path: Path) -> None:
    """To its own link and to groups; IPv6's link-local addresses are on the link, too."""
    async with world(attack_lab, tmp_path) as (one, other, inet):
        ours = one.place(inet.visitor)
        for setting in ("all", "default", nftables.TAP):
            await ours.write(f"ipv6/conf/{setting}/disable_ipv6", "0")
        await ip([f"address add fe80::1/64 dev {nftables.TAP} nodad"], ours.path)
        for scope in ("all", "eth0"):
            path = f":proc:sys:net:ipv6:conf:{scope}:disable_ipv6"
            assert await one.does("write", path, "0") == "it worked"
        member = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(nftables.GATEWAY))
        with contextlib.ExitStack() as stack:
            heard = await ours.socket(socket.SOCK_DGRAM)
            heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            stack.enter_context(echo(heard, ("0.0.0.0", PORT)))
            six = await ours.socket(socket.SOCK_DGRAM, socket.AF_INET6)
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            stack.enter_context(echo(six, ("::", PORT)))
            said = ("255.255.255.255", "172.16.0.3", GROUP, "fe80::1", "ff02::1")
            for address in said:
                assert await one.does("udp", address, PORT) != HELLO, address
            await disarm_all(one, other)
            for address in said:
                assert await one.does("udp", address, PORT) == HELLO, address


async def test_forged_frames_end_at_the_tap(attack_lab: NodeLab, tmp_path: Path) -> None:
    async with world(attack_lab, tmp_path) as (one, _, _inet):
        await watch(one.network)
        assert await one.does("arp", nftables.GATEWAY) == "reply"
        # Answers to what the test asks pass, too: a frame counts in hundreds.
        for name, forged in FRAMES.items():
            before = await seen(one.network)
            assert await one.does("frame", forged.hex(), 100) == "sent 100"
            assert await seen(one.network) - before < 100, name
        await disarm_link(one.network)
        for name, forged in FRAMES.items():
            before = await seen(one.network)
            assert await one.does("frame", forged.hex(), 100) == "sent 100"
            assert await seen(one.network) - before >= 100, name


async def test_a_guest_learns_and_moves_no_address(attack_lab: NodeLab, tmp_path: Path) -> None:
    """By questions for addresses that are not its link's, and by claims."""
    async with world(attack_lab, tmp_path) as (one, _, inet):
        entered = ("nsenter", f"--net={one.network}", "ip", "-json")
        routes = await query(*entered, "route")

        async def neighbours() -> set[tuple[str, str | None]]:
            listed = json.loads(await query(*entered, "neigh", "show", "dev", nftables.TAP))
            return {(item["dst"], item.get("lladdr")) for item in listed}

        assert await one.does("arp", one.address) == "silence"
        claim = FRAMES["claim with another's hardware"].hex()
        await one.does("frame", claim)
        for source in (nftables.GUEST, nftables.GATEWAY, one.root_address):
            await one.does("frame", redirect(source, nftables.GUEST).hex(), 10)
        guest = {(address, nftables.GUEST_MAC) for address in (nftables.GUEST, "127.0.0.1")}
        assert await neighbours() <= guest
        assert await query(*entered, "route") == routes
        await disarm_link(one.network)
        assert await one.does("arp", one.address) == "reply"
        # The guest's entry is also a fixed one: a claim moves it where it is learnt.
        learnt = f"neighbour replace {nftables.GUEST} lladdr {nftables.GUEST_MAC}"
        await ip([f"{learnt} dev {nftables.TAP} nud reachable"], one.network)
        await one.place(inet.visitor).write(f"ipv4/neigh/{nftables.TAP}/locktime", "0")
        await one.does("frame", claim, 10)
        async with asyncio.timeout(LIMIT):
            while (nftables.GUEST, OTHER_MAC) not in await neighbours():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_guest_redirects_nothing(attack_lab: NodeLab, tmp_path: Path) -> None:
    """ICMP redirects, in the name of the router that its namespace has, to another of the link."""
    async with world(attack_lab, tmp_path) as (one, _, inet):
        ours = one.place(inet.visitor)
        asking = ("nsenter", f"--net={one.network}", "ip", "-json", "route", "get", INTERNET)
        # As if it had answered there: else the kernel asks for it first.
        known = f"neighbour replace {HOST_PUBLIC} lladdr {OTHER_MAC} nud permanent"
        await ip([f"{known} dev {nftables.UPLINK}"], one.network)
        await watch(one.network)

        async def way() -> str:
            (route,) = json.loads(await query(*asking))
            return str(route["gateway"])

        async def redirected(*, arrives: bool = True) -> bool:
            before = await seen(one.network)
            forged = redirect(one.root_address, HOST_PUBLIC).hex()
            assert await one.does("frame", forged, 100) == "sent 100"
            async with asyncio.timeout(LIMIT):
                while arrives and await seen(one.network) - before < 100:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            return await way() == HOST_PUBLIC

        assert not await redirected(arrives=False)
        await disarm_link(one.network)
        assert not await redirected()
        await disarm_filter(one)
        assert not await redirected()
        for interface in ("all", "default", nftables.TAP):
            await ours.write(f"ipv4/conf/{interface}/rp_filter", "0")
        assert not await redirected()
        for interface in ("all", nftables.TAP):
            await ours.write(f"ipv4/conf/{interface}/accept_redirects", "1")
        async with asyncio.timeout(LIMIT):
            while not await redirected():
                pass
