"""What a guest can and cannot reach, and who can reach it. Every "cannot" is shown to succeed with
the defence removed, so that these tests can fail."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from microvmd.model.egress import NOTHING
from microvmd.node import namespace, nftables
from microvmd.node.commands import ip, nft, query
from microvmd.node.dns import IN_FLIGHT
from microvmd.node.network import NetworkPool
from tests import netlab
from tests.netlab import (
    INTERNET,
    METADATA,
    PRIVATE,
    Place,
    disarm,
    disarm_host,
    disarm_link,
    echo,
    reaches,
)
from tests.networld import World, ask, client, in_world, settings

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


def test_the_edge_reaches_listeners_on_loopback_and_on_all_addresses(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        edge = world.network.edge_address
        with (
            echo(await world.guest.socket(), ("127.0.0.1", 8080)),
            echo(await world.guest.socket(), ("0.0.0.0", 8081)),
        ):
            assert await reaches(client(), (edge, 8080))
            assert await reaches(client(), (edge, 8081))
        with client() as refused, pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(refused.connect, (edge, 8082))

    in_world(tmp_path, test)


def test_a_blocked_port_is_refused_also_on_an_open_connection(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        target = (world.network.edge_address, 9000)
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(await world.guest.socket())
            listener.bind(("127.0.0.1", 9000))
            listener.listen()
            before = stack.enter_context(client())
            await asyncio.to_thread(before.connect, target)
            served = stack.enter_context((await asyncio.to_thread(listener.accept))[0])
            before.send(b"open")
            assert await asyncio.to_thread(served.recv, 10) == b"open"

            await world.network.block_port(9000)

            refused = stack.enter_context(client())
            with pytest.raises(ConnectionRefusedError):
                await asyncio.to_thread(refused.connect, target)
            before.send(b"late")
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(before.recv, 10)

    in_world(tmp_path, test)


def test_only_the_veths_own_address_may_open_connections_to_the_guest(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        target = (world.network.edge_address, 8080)
        with echo(await world.guest.socket(), ("127.0.0.1", 8080)):
            assert not await reaches(client(netlab.HOST_PUBLIC), target)
            assert not await reaches(await world.internet.socket(), target)
            # The host forwards nothing new to a MicroVM, and its namespace wants one source.
            await disarm_host(world.settings, "forwarded")
            assert not await reaches(await world.internet.socket(), target)
            rule = f"tcp dport 8080 dnat ip to {nftables.GUEST}"
            await nft(f"add rule inet vm edge_in {rule}\n", world.network.path)
            assert await reaches(client(netlab.HOST_PUBLIC), target)
            assert await reaches(await world.internet.socket(), target)

    in_world(tmp_path, test)


def test_the_guest_reaches_the_internet_over_tcp(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with echo(await world.internet.socket(), (INTERNET, 80)):
            assert await reaches(await world.guest.socket(), (INTERNET, 80))

    in_world(tmp_path, test)


Layer = Callable[[World], Awaitable[None]]


async def namespace_forward(world: World) -> None:
    await disarm(world.network.path, "forwarded")


async def namespace_local(world: World) -> None:
    await disarm(world.network.path, "local")


async def host_input(world: World) -> None:
    await disarm_host(world.settings, "to_host")


@dataclass(frozen=True, slots=True)
class Attack:
    """A server somewhere, and the defences that must all go before the guest reaches it."""

    target: Callable[[World], str]
    server: Callable[[World], Place | None]
    layers: tuple[Layer, ...]
    kind: int = socket.SOCK_STREAM


def network_place(world: World) -> Place:
    return Place(world.network.path, world.visitor)


ATTACKS = {
    "gateway": Attack(lambda _: nftables.GATEWAY, network_place, (namespace_local,)),
    "veth of the namespace": Attack(
        lambda world: world.network.edge_address, network_place, (namespace_local,)
    ),
    "veth of the host": Attack(
        lambda world: world.root_address, lambda _: None, (host_input, namespace_forward)
    ),
    "public address of the host": Attack(
        lambda _: netlab.HOST_PUBLIC, lambda _: None, (host_input,)
    ),
    "private range": Attack(lambda _: PRIVATE, lambda world: world.internet, (namespace_forward,)),
    "link-local range": Attack(
        lambda _: netlab.LINK_LOCAL, lambda world: world.internet, (namespace_forward,)
    ),
    "other ports of the metadata address": Attack(
        lambda _: METADATA, network_place, (namespace_local,)
    ),
    "UDP": Attack(
        lambda _: INTERNET,
        lambda world: world.internet,
        (namespace_forward,),
        socket.SOCK_DGRAM,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_guest_cannot_reach(name: str, tmp_path: Path) -> None:
    attack = ATTACKS[name]

    async def test(world: World) -> None:
        server = attack.server(world)
        listener = socket.socket(type=attack.kind) if server is None else None
        if server is not None:
            listener = await server.socket(attack.kind)
        assert listener is not None
        target = (attack.target(world), 7777)
        with echo(listener, target):
            for layer in attack.layers:
                assert not await reaches(await world.guest.socket(attack.kind), target), layer
                await layer(world)
            assert await reaches(await world.guest.socket(attack.kind), target), "no counterpart"

    in_world(tmp_path, test)


def test_the_guest_cannot_reach_another_microvm(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with world.pool.network() as other:
            there = Place(other.path, world.visitor)
            await disarm(other.path, "local")
            target = (other.edge_address, 8080)
            with echo(await there.socket(), target):
                assert not await reaches(await world.guest.socket(), target)
                await namespace_forward(world)
                assert not await reaches(await world.guest.socket(), target)
                await disarm_host(world.settings, "forwarded")
                assert await reaches(await world.guest.socket(), target)

    in_world(tmp_path, test)


def test_without_egress_the_guest_reaches_nothing_but_is_reached(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with echo(await world.internet.socket(), (INTERNET, 80)):
            assert not await reaches(await world.guest.socket(), (INTERNET, 80))
            with pytest.raises(OSError, match=r"timed out|No route|prohibited|refused"):
                await ask(world.guest, "good.test", tcp=True)
            await namespace_forward(world)
            assert await reaches(await world.guest.socket(), (INTERNET, 80))
        with echo(await world.guest.socket(), ("127.0.0.1", 8080)):
            assert await reaches(client(), (world.network.edge_address, 8080))

    in_world(tmp_path, test, NOTHING)


def test_ipv6_leads_nowhere(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        there = network_place(world)
        await there.write("ipv6/conf/all/disable_ipv6", "0")
        await there.write("ipv6/conf/tap0/disable_ipv6", "0")
        # Known neighbours: the packets that are refused here are those of the connection.
        await ip(
            [
                "address add fd00:77::1/64 dev tap0 nodad",
                f"neighbour add fd00:77::2 lladdr {nftables.GUEST_MAC} dev tap0",
            ],
            world.network.path,
        )
        await ip(
            [
                "address add fd00:77::2/64 dev eth0 nodad",
                f"neighbour add fd00:77::1 lladdr {nftables.GATEWAY_MAC} dev eth0",
            ],
            world.guest.path,
        )
        target = ("fd00:77::1", 7777)
        with echo(await there.socket(family=socket.AF_INET6), target):
            assert not await reaches(await world.guest.socket(family=socket.AF_INET6), target)
            await disarm_link(world.network.path)
            assert not await reaches(await world.guest.socket(family=socket.AF_INET6), target)
            await disarm(world.network.path, "from_guest")
            assert not await reaches(await world.guest.socket(family=socket.AF_INET6), target)
            await namespace_local(world)
            assert await reaches(await world.guest.socket(family=socket.AF_INET6), target)

    in_world(tmp_path, test)


def test_spoofed_sources_are_dropped(tmp_path: Path) -> None:
    async def arrived(world: World) -> int:
        """SYNs of the guest that the internet has seen after one more with a false source."""
        spoofing = await world.guest.socket()
        spoofing.bind(("203.0.113.9", 0))
        assert not await reaches(spoofing, (INTERNET, 4444))
        listing = await query(
            "nsenter",
            f"--net={world.internet.path}",
            "nft",
            "list",
            "counter",
            "inet",
            "seen",
            "syn",
        )
        return int(listing.split(b"packets ")[1].split()[0])

    async def test(world: World) -> None:
        await ip(["address add 203.0.113.9/32 dev eth0"], world.guest.path)
        await nft(
            "table inet seen {\n counter syn { }\n chain c {\n"
            "type filter hook prerouting priority 0\ntcp dport 4444 counter name syn\n}\n}\n",
            world.internet.path,
        )
        assert await arrived(world) == 0
        await disarm_link(world.network.path)
        assert await arrived(world) == 0
        await disarm(world.network.path, "from_guest")
        assert await arrived(world) == 0  # the kernel's reverse path filter
        for interface in ("all", "default", "tap0"):
            await network_place(world).write(f"ipv4/conf/{interface}/rp_filter", "0")
        assert await arrived(world) > 0

    in_world(tmp_path, test)


def test_connections_of_one_guest_are_bounded(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        limit = world.settings.connections
        with echo(await world.internet.socket(), (INTERNET, 80)), contextlib.ExitStack() as stack:
            for _ in range(limit):
                held = stack.enter_context(await world.guest.socket())
                await asyncio.to_thread(held.connect, (INTERNET, 80))
            assert not await reaches(await world.guest.socket(), (INTERNET, 80))
            await namespace_forward(world)
            assert await reaches(await world.guest.socket(), (INTERNET, 80))

    in_world(tmp_path, test)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("server", [nftables.GATEWAY, nftables.LINK_RESOLVER])
def test_names_are_resolved_by_the_stub(server: str, tcp: bool, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        good = await ask(world.guest, "good.test", tcp=tcp, server=server)
        assert [item.to_text() for item in good.answer] == [f"good.test. 60 IN A {INTERNET}"]
        for name in ("rebind.test", "meta.test"):
            refused = await ask(world.guest, name, tcp=tcp, server=server)
            assert refused.rcode() == dns.rcode.REFUSED
            assert not refused.answer
        missing = await ask(world.guest, "missing.test", tcp=tcp, server=server)
        assert missing.rcode() == dns.rcode.NXDOMAIN
        empty = await ask(world.guest, "good.test", tcp=tcp, server=server, kind="AAAA")
        assert (empty.rcode(), empty.answer) == (dns.rcode.NOERROR, [])

    in_world(tmp_path, test)


def test_queries_in_flight_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            silent = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            silent.bind(("127.0.0.1", 0))
            silent.settimeout(0.5)
            made = settings(tmp_path, resolvers=(f"127.0.0.1:{silent.getsockname()[1]}",))
            visitor = stack.enter_context(namespace.Visitor())
            pool = await stack.enter_async_context(NetworkPool(made))
            network = await stack.enter_async_context(pool.network())
            guest = await stack.enter_async_context(
                netlab.plugged_guest(network, visitor, tmp_path / "guest")
            )
            asking = stack.enter_context(await guest.socket(socket.SOCK_DGRAM))
            for number in range(IN_FLIGHT + 30):
                wire = dns.message.make_query(f"n{number}.test", "A").to_wire()
                asking.sendto(wire, (nftables.GATEWAY, 53))
            assert await asyncio.to_thread(count_datagrams, silent) == IN_FLIGHT

    asyncio.run(main())


def count_datagrams(listener: socket.socket) -> int:
    """How many come until none came for a while."""
    count = 0
    with contextlib.suppress(TimeoutError):
        while listener.recv(1000):
            count += 1
    return count
