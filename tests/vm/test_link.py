"""The link to a guest: frames that a guest's root makes, and how many bytes pass.

Each frame is shown to arrive when the link's filter is gone.
"""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from microvmd.node import link, nftables
from microvmd.node.commands import query, tc
from tests.frames import ALLOWED, FRAMES, seen, watch
from tests.netlab import INTERNET, disarm, disarm_link, echo, reaches
from tests.networld import World, client, in_world

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

NOBODY = "198.51.100.99"
"""An address of the internet that answers nothing: a refusal would end the connection."""


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
