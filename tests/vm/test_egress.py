"""What connectors open in a guest's network, and that it ends with them. Every "cannot" has a "can"
beside it, or is shown to succeed with the defence removed."""

import asyncio
import contextlib
import socket
from ipaddress import IPv4Network
from pathlib import Path

import dns.rcode
import pytest

from microvmd.model.egress import INTERNET as OPEN
from microvmd.model.egress import NOTHING, Egress, PortRange, Protocol, Reach
from microvmd.node import nftables
from microvmd.node.commands import nft, query
from microvmd.node.network import NetworkPool
from microvmd.vmm.process import ProcessFailed
from tests import netlab
from tests.netlab import INTERNET, METADATA, PRIVATE, disarm, echo, reaches
from tests.networld import World, ask, client, in_world, settings

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

GRANT, OTHER = "nc-1:1", "nc-2:1"
UDP = socket.SOCK_DGRAM


def opened(
    network: str,
    protocol: Protocol = Protocol.ALL,
    *ports: PortRange,
    grant: str = GRANT,
) -> Reach:
    return Reach(grant, IPv4Network(network), protocol, ports)


def only(*reach: Reach) -> Egress:
    return Egress(reaches=reach)


async def reached(world: World, address: str, port: int, kind: int = socket.SOCK_STREAM) -> bool:
    """Whether a server of the internet's namespace at this address answers the guest."""
    with echo(await world.internet.socket(kind), (address, port)):
        return await reaches(await world.guest.socket(kind), (address, port))


def test_a_mapped_network_is_reached_and_nothing_else(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await reached(world, PRIVATE, 80)
        assert await reached(world, PRIVATE, 80, UDP)
        for address in (INTERNET, METADATA):
            assert not await reached(world, address, 7777)
        await disarm(world.network.path, "forwarded")
        assert await reached(world, INTERNET, 7777)

    in_world(tmp_path, test, only(opened("10.99.0.0/16")))


def test_an_unmapped_connector_reaches_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for address in (INTERNET, PRIVATE):
            assert not await reached(world, address, 80)
        await disarm(world.network.path, "forwarded")
        assert await reached(world, PRIVATE, 80)

    in_world(tmp_path, test, NOTHING)


def test_ports_and_protocols(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for port, reachable in (
            (443, True),
            (8000, True),
            (8050, True),
            (8101, False),
            (80, False),
        ):
            assert await reached(world, PRIVATE, port) is reachable, port
            assert not await reached(world, PRIVATE, port, UDP)
        assert await reached(world, INTERNET, 5353, UDP)
        assert not await reached(world, INTERNET, 5353)

    tcp = opened("10.99.0.0/16", Protocol.TCP, (443, 443), (8000, 8050), (8040, 8100))
    udp = opened(f"{INTERNET}/32", Protocol.UDP, (5353, 5353))
    in_world(tmp_path, test, only(tcp, udp))


def test_everything_means_the_internet_and_no_private_network(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await reached(world, INTERNET, 80)
        assert await reached(world, INTERNET, 80, UDP)
        assert not await reached(world, PRIVATE, 80)

    in_world(tmp_path, test, only(opened("0.0.0.0/0")))


def test_internet_and_connector_add_up(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await reached(world, INTERNET, 80)
        assert not await reached(world, INTERNET, 80, UDP)
        assert await reached(world, PRIVATE, 80)

    in_world(tmp_path, test, Egress(True, (opened("10.99.0.0/16"),)))


@pytest.mark.parametrize("name", ["metadata", "gateway", "host", "neighbour"])
def test_no_mapping_opens(name: str, tmp_path: Path) -> None:
    """The mapping holds all of these; the counterparts are in test_network.py."""

    async def test(world: World) -> None:
        async with world.pool.network() as neighbour:
            target = {
                "metadata": netlab.LINK_LOCAL,
                "gateway": nftables.GATEWAY,
                "host": world.root_address,
                "neighbour": neighbour.edge_address,
            }[name]
            if name == "metadata":
                assert not await reached(world, target, 7777)
                return
            place = {"gateway": world.network.path, "neighbour": neighbour.path}.get(name)
            listener = socket.socket()
            if place is not None:
                listener.close()
                listener = await netlab.Place(place, world.visitor).socket()
            if name == "neighbour":
                await disarm(neighbour.path, "local")
            with echo(listener, (target, 7777)):
                assert not await reaches(await world.guest.socket(), (target, 7777))

    everything = [opened(text) for text in ("169.254.0.0/16", "172.16.0.0/12", "10.0.0.0/8")]
    in_world(tmp_path, test, only(*everything))


def test_a_revoked_connector_ends_at_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(await world.internet.socket())
            listener.bind((PRIVATE, 7777))
            listener.listen()
            held = stack.enter_context(await world.guest.socket())
            await asyncio.to_thread(held.connect, (PRIVATE, 7777))
            served = stack.enter_context((await asyncio.to_thread(listener.accept))[0])
            served.settimeout(netlab.LIMIT)
            held.send(b"open")
            assert await asyncio.to_thread(served.recv, 10) == b"open"

            await world.pool.revoke({GRANT})

            # Neither direction passes any more, and the guest is told.
            served.send(b"in")
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(held.recv, 10)
            held.send(b"out")
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(held.recv, 10)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(served.recv, 10)
        assert not await reached(world, PRIVATE, 80)
        with pytest.raises(OSError, match=r"timed out|No route|prohibited|refused"):
            await ask(world.guest, "good.test", tcp=True)

    in_world(tmp_path, test, only(opened("10.99.0.0/16")))


def test_a_revocation_leaves_the_other_connectors(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.pool.revoke({GRANT})
        assert not await reached(world, PRIVATE, 80)
        assert await reached(world, INTERNET, 80)
        assert world.network.egress == only(opened(f"{INTERNET}/32", grant=OTHER))

    reach = opened("10.99.0.0/16"), opened(f"{INTERNET}/32", grant=OTHER)
    in_world(tmp_path, test, only(*reach))


def test_what_was_revoked_before_is_never_opened(tmp_path: Path) -> None:
    async def main() -> None:
        async with NetworkPool(settings(tmp_path, ready=1)) as pool:
            await pool.revoke({GRANT})
            await pool.wait_ready()
            async with pool.network(only(opened("10.99.0.0/16"))) as network:
                assert network.egress == NOTHING

    asyncio.run(main())


def test_a_network_that_ended_does_not_fail_a_revocation(tmp_path: Path) -> None:
    async def main() -> None:
        egress = only(opened("10.99.0.0/16"))
        async with NetworkPool(settings(tmp_path)) as pool, contextlib.AsyncExitStack() as stack:
            network = await stack.enter_async_context(pool.network(egress))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pool.revoke({GRANT}))
                tasks.create_task(stack.aclose())
            assert not network.path.exists()

    asyncio.run(main())


def test_a_network_that_cannot_be_changed_fails_it(tmp_path: Path) -> None:
    async def main() -> None:
        egress = only(opened("10.99.0.0/16"))
        async with NetworkPool(settings(tmp_path)) as pool, pool.network(egress) as network:
            await nft("delete table inet vm\n", network.path)
            with pytest.raises(ProcessFailed):
                await pool.revoke({GRANT})

    asyncio.run(main())


def test_an_adopted_guest_keeps_to_what_the_record_says(tmp_path: Path) -> None:
    async def main() -> None:
        made = settings(tmp_path)
        egress = only(opened("10.99.0.0/16"))
        async with NetworkPool(made) as pool, pool.network(egress) as network:
            network.detach()
        async with NetworkPool(made) as pool, pool.adopt(network.name, NOTHING) as adopted:
            assert adopted.egress == NOTHING
            listed = await query("nsenter", f"--net={adopted.path}", "nft", "list", "ruleset")
            assert b"10.99.0.0" not in listed

    asyncio.run(main())


def test_names_lead_where_addresses_may(tmp_path: Path) -> None:
    """rebind.test is 10.1.2.3 and meta.test the metadata address."""

    async def test(world: World) -> None:
        for name, found in (
            ("good.test", dns.rcode.NOERROR),
            ("rebind.test", dns.rcode.NOERROR),
            ("meta.test", dns.rcode.REFUSED),
        ):
            assert (await ask(world.guest, name)).rcode() == found, name
        await world.pool.revoke({GRANT})
        assert (await ask(world.guest, "rebind.test")).rcode() == dns.rcode.REFUSED

    reach = opened("10.1.0.0/16"), opened("198.51.100.0/24", grant=OTHER)
    in_world(tmp_path, test, only(*reach))


@pytest.mark.parametrize("egress", [NOTHING, OPEN, only(opened("10.99.0.0/16"))])
def test_the_edge_reaches_the_guest_whatever_it_may_reach(egress: Egress, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with echo(await world.guest.socket(), ("127.0.0.1", 8080)):
            assert await reaches(client(), (world.network.edge_address, 8080))

    in_world(tmp_path, test, egress)


def test_the_filter_takes_what_connectors_can_say(tmp_path: Path) -> None:
    async def main() -> None:
        async with NetworkPool(settings(tmp_path)) as pool:
            reach = opened("10.0.0.0/8", Protocol.TCP, (1, 65535), (80, 90)), opened("0.0.0.0/0")
            await pool.check(Egress(True, reach))

    asyncio.run(main())
