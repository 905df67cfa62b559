"""A pool with one network that has a guest, a resolver, and the internet beside it (see netlab)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import dns.message
import dns.query

from microvmd.model.egress import INTERNET as OPEN
from microvmd.model.egress import Egress
from microvmd.node import namespace, nftables
from microvmd.node.network import Network, NetworkPool
from microvmd.node.slots import NetworkSettings
from tests import lanes, netlab
from tests.netlab import INTERNET, METADATA, Place

RECORDS = {"good.test.": INTERNET, "rebind.test.": "10.1.2.3", "meta.test.": METADATA}


def settings(run: Path, ready: int = 0, resolvers: tuple[str, ...] = ()) -> NetworkSettings:
    made = lanes.own().networks(run)
    return replace(made, ready=ready, connections=20, resolvers=resolvers)


@dataclass(slots=True)
class World:
    """A pool with one network that has a guest, and the internet."""

    settings: NetworkSettings
    pool: NetworkPool
    visitor: namespace.Visitor
    network: Network
    guest: Place
    internet: Place

    @property
    def root_address(self) -> str:
        return self.settings.slot(self.settings.index_of(self.network.name)).root_address


@contextlib.asynccontextmanager
async def world(
    directory: Path, egress: Egress = OPEN, records: netlab.Records = RECORDS
) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(netlab.resolver(records))
        visitor = stack.enter_context(namespace.Visitor())
        made = settings(directory, resolvers=(address,))
        pool = await stack.enter_async_context(NetworkPool(made))
        network = await stack.enter_async_context(pool.network(egress))
        guest = await stack.enter_async_context(
            netlab.plugged_guest(network, visitor, directory / "guest")
        )
        internet = await stack.enter_async_context(netlab.internet(visitor, directory / "inet"))
        yield World(made, pool, visitor, network, guest, internet)


def in_world(
    directory: Path,
    test: Callable[[World], Awaitable[None]],
    egress: Egress = OPEN,
    records: netlab.Records = RECORDS,
) -> None:
    async def main() -> None:
        async with world(directory, egress, records) as made:
            await test(made)

    asyncio.run(main())


def client(source: str | None = None) -> socket.socket:
    """A socket of the root namespace, as the edge has."""
    made = socket.socket()
    made.settimeout(netlab.LIMIT)
    if source is not None:
        made.bind((source, 0))
    return made


async def ask(
    guest: Place, name: str, *, tcp: bool = False, kind: str = "A", server: str = nftables.GATEWAY
) -> dns.message.Message:
    """What the stub answers to the guest."""
    question = dns.message.make_query(name, kind)
    used = await guest.socket(socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    with used:
        if not tcp:
            used.setblocking(False)
            return await asyncio.to_thread(dns.query.udp, question, server, 2, sock=used)
        await asyncio.to_thread(used.connect, (server, 53))
        used.setblocking(False)
        return await asyncio.to_thread(dns.query.tcp, question, server, 2, sock=used)
