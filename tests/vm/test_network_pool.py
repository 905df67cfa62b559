"""Networks of MicroVMs as the node has them: made ahead, handed over, adopted, swept, undone."""

import asyncio
import contextlib
import ipaddress
import os
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.node import namespace, nftables
from microvmd.node.commands import ip, nft, query
from microvmd.node.network import NetworkPool
from microvmd.node.slots import NetworkError
from microvmd.vmm.process import ProcessFailed, run
from tests import lanes, netlab
from tests.lanes import Lane
from tests.netlab import INTERNET, echo, reaches
from tests.networld import RECORDS, World, ask, client, in_world, settings

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


def test_the_pool_is_refilled_and_names_are_not_reused(tmp_path: Path) -> None:
    async def main() -> None:
        async with NetworkPool(settings(tmp_path, ready=2)) as pool:
            names = []
            for _ in range(5):
                await pool.wait_ready()
                async with pool.network() as network:
                    names.append(network.name)
                assert not network.path.exists()
            assert names == [f"{lanes.own().prefix}{index}" for index in range(5)]

    asyncio.run(main())


@pytest.mark.parametrize("change", ["delete table", "flush table", "flush chain"])
def test_what_others_take_out_of_the_packet_filter_is_put_back(tmp_path: Path, change: str) -> None:
    """As Debian's nftables.service does: its file begins with `flush ruleset`."""
    table = f"inet {nftables.host_table(settings(tmp_path))}"
    chain = " to_host" if change == "flush chain" else ""

    async def listed() -> bytes:
        with contextlib.suppress(ProcessFailed):
            return await query("nft", "--stateless", "list", "table", *table.split())
        return b""

    async def main() -> None:
        async with NetworkPool(settings(tmp_path)):
            before = await listed()
            assert b"hook input" in before
            for _ in range(2):
                await nft(f"{change} {table}{chain}\n")
                while await listed() != before:  # noqa: ASYNC110 - the kernel tells the node alone
                    await asyncio.sleep(0.05)
        assert await listed() == b"", "its end takes it away"

    asyncio.run(main())


def test_an_empty_pool_makes_one_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            NetworkPool(settings(tmp_path)) as pool,
            pool.network() as one,
            pool.network() as two,
        ):
            assert one.name != two.name

    asyncio.run(main())


def test_the_edge_acknowledges_at_once(tmp_path: Path) -> None:
    """Else an application that writes headers and body apart loses 40 ms with each answer."""

    async def main() -> None:
        async with NetworkPool(settings(tmp_path)) as pool, pool.network() as network:
            routes = await run(["ip", "route", "show", "dev", network.name], timeout=5)
            assert "quickack 1" in routes.text

    asyncio.run(main())


def test_the_tap_is_the_networks_and_its_descriptor_the_callers(tmp_path: Path) -> None:
    async def main() -> None:
        async with NetworkPool(settings(tmp_path)) as pool:
            async with pool.network() as network:
                descriptor = network.open_tap()
            assert os.read(descriptor, 0) == b""
            os.close(descriptor)
            with pytest.raises(NetworkError):
                network.open_tap()

    asyncio.run(main())


def test_a_detached_network_outlives_the_pool_and_is_adopted(tmp_path: Path) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            address = await stack.enter_async_context(netlab.resolver(RECORDS))
            visitor = stack.enter_context(namespace.Visitor())
            made = settings(tmp_path, resolvers=(address,))
            async with NetworkPool(made) as pool, pool.network() as network:
                network.detach()
            guest = await stack.enter_async_context(
                netlab.plugged_guest(network, visitor, tmp_path / "guest")
            )
            with echo(await guest.socket(), ("127.0.0.1", 8080)):
                assert await reaches(client(), (network.edge_address, 8080))
                pool = await stack.enter_async_context(NetworkPool(made))
                async with pool.adopt(network.name) as adopted, pool.network() as fresh:
                    assert adopted.edge_address == network.edge_address
                    assert fresh.name != adopted.name
                    assert await pool.sweep(keep=frozenset()) == frozenset()
                    assert await reaches(client(), (network.edge_address, 8080))
                    assert (await ask(guest, "good.test")).answer
                    with pytest.raises(NetworkError):
                        adopted.open_tap()
                    with pytest.raises(NetworkError):
                        await stack.enter_async_context(pool.adopt(network.name))
            assert not network.path.exists()

    asyncio.run(main())


def test_sweep_destroys_what_nobody_adopted_and_keeps_what_it_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        made = settings(tmp_path)
        async with NetworkPool(made) as pool, pool.network() as kept, pool.network() as lost:
            kept.detach()
            lost.detach()
            tap = lost.open_tap()  # as a VMM that is still there would
        (made.namespaces / "nt7").touch()
        async with NetworkPool(made) as pool:
            assert await pool.sweep(keep={kept.name}) == {lost.name}
            assert kept.path.exists()
            assert not lost.path.exists()
            assert not namespace.exists(lost.name)
            assert not (made.namespaces / "nt7").exists()
            assert await pool.sweep(keep=frozenset()) == {kept.name}
        os.close(tap)

    asyncio.run(main())


def test_a_cancelled_creation_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with NetworkPool(settings(tmp_path)) as pool:
            for step in range(12):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(step * 0.003), pool.network():
                        pass
        assert not list((tmp_path / "netns").iterdir())

    asyncio.run(main())


def test_the_host_is_as_before(tmp_path: Path) -> None:
    def forward() -> str:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text()

    async def main() -> None:
        before, alone = forward(), await _alone()
        async with NetworkPool(settings(tmp_path)) as pool:
            assert forward() == "1\n"
            async with pool.network() as network:
                network.detach()
        assert forward() == "1\n"
        async with NetworkPool(settings(tmp_path)) as pool:
            await pool.sweep(keep=frozenset())
        assert not (tmp_path / "ip_forward").exists()
        assert settings(tmp_path).prefix.encode() not in await query("nft", "list", "tables")
        if alone and await _alone():
            assert forward() == before
        base = str(lanes.own().subnet).rpartition(".")[0]
        assert base.encode() not in await query("ip", "route")

    asyncio.run(main())


async def _alone() -> bool:
    """Whether no instance has the machine's forwarding switched on."""
    return b"microvmd_" not in await query("nft", "list", "tables")


def test_the_last_instance_puts_forwarding_back(tmp_path: Path) -> None:
    forward = Path("/proc/sys/net/ipv4/ip_forward")

    async def main() -> bool:
        """Whether no other instance ran on this machine."""
        alone = await _alone()
        async with contextlib.AsyncExitStack() as later:
            lane = later.enter_context(Lane.claimed())
            second = lane.networks(tmp_path / "b")
            async with NetworkPool(settings(tmp_path / "a")):
                await later.enter_async_context(NetworkPool(second))
            assert await asyncio.to_thread(forward.read_text) == "1\n"
        return alone and await _alone()

    before = forward.read_text()
    if asyncio.run(main()):
        assert forward.read_text() == before


def test_forwarding_between_others_stays_off_if_it_was(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        """A stranger on another interface tries to use the host as a router to the internet."""
        other = tmp_path / "stranger"
        async with netlab.place(other, world.visitor) as stranger:
            await ip(
                [
                    f"link add str0 type veth peer name eth0 netns {other}",
                    "address add 203.0.113.1/24 dev str0",
                    "link set str0 up",
                ]
            )
            routes = ["address add 203.0.113.2/24 dev eth0", "link set eth0 up"]
            await ip([*routes, "route add default via 203.0.113.1"], other)
            await netlab.settle(await stranger.socket(), "203.0.113.1")
            with echo(await world.internet.socket(), (INTERNET, 80)):
                reached = await reaches(await stranger.socket(), (INTERNET, 80))
                assert reached == (await netlab.guards() == 0)
                # What no guard holds for.
                await ip([f"link set str0 group {nftables.GROUP}"])
                assert await reaches(await stranger.socket(), (INTERNET, 80))

    in_world(tmp_path, test)


def test_a_subnet_in_use_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        subnet = ipaddress.IPv4Network("127.0.0.0/24")
        loopback = replace(settings(tmp_path), subnet=subnet)
        with pytest.raises(NetworkError, match="in use: lo has"):
            async with NetworkPool(loopback):
                pass

    asyncio.run(main())
