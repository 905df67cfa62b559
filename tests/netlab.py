"""A small world of network namespaces: guests without a VM, and a server on "the internet".

A guest here is a namespace whose interface is a veth plugged in where the tap was: the packet
filter goes by interface names and cannot tell. Sockets are made inside a namespace and then used
from the test's own threads, as they stay where they were made. The internet is a namespace that
owns 198.51.100.0/24 (TEST-NET-2, in no deny list) and is routed to, not translated to; it also
answers for a private, a link-local and the metadata address, so that "not reachable" has a
counterpart.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

from microvmd.node import link, nftables
from microvmd.node.commands import ip, nft, query
from microvmd.node.namespace import Visitor, destroy
from microvmd.node.network import KEEPING, Network
from microvmd.node.slots import NetworkSettings
from tests import lanes

INTERNET = "198.51.100.7"
HOST_PUBLIC = "198.51.100.1"
PRIVATE = "10.99.0.1"
LINK_LOCAL = "169.254.77.1"
METADATA = "169.254.169.254"
LIMIT = 1.0
"""Seconds after which a connection counts as refused; what is allowed takes a few ms."""


@dataclass(slots=True)
class Place:
    """A namespace in which sockets can be made."""

    path: Path
    visitor: Visitor

    async def socket(
        self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET
    ) -> socket.socket:
        made: list[socket.socket] = []
        await self.visitor.inside(self.path, lambda: made.append(socket.socket(family, kind)))
        made[0].settimeout(LIMIT)
        return made[0]

    async def write(self, setting: str, value: str) -> None:
        path = Path("/proc/sys/net") / setting
        await self.visitor.inside(self.path, lambda: _write(path, value))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@contextlib.asynccontextmanager
async def place(path: Path, visitor: Visitor) -> AsyncIterator[Place]:
    await visitor.make(path, lambda: None)
    try:
        yield Place(path, visitor)
    finally:
        destroy(path)


@contextlib.asynccontextmanager
async def plugged_guest(network: Network, visitor: Visitor, path: Path) -> AsyncIterator[Place]:
    """A guest whose network card is a veth in place of the network's tap."""
    tap = nftables.TAP
    async with place(path, visitor) as guest:
        await ip(
            [
                f"link set {tap} down",
                f"link set {tap} name unplugged",
                "address flush dev unplugged",
                f"link add {tap} type veth peer name eth0 netns {path}",
                f"link set {tap} address {nftables.GATEWAY_MAC} up",
                f"address add {nftables.GATEWAY}/{nftables.GUEST_PREFIX} dev {tap}",
            ],
            network.path,
        )
        # The filter of the link is bound to the device.
        await nft(f"delete table netdev {link.TABLE}\n{link.ruleset()}", network.path)
        await ip(
            [
                "link set lo up",
                f"link set eth0 address {nftables.GUEST_MAC} up",
                f"address add {nftables.GUEST}/{nftables.GUEST_PREFIX} dev eth0",
                f"route add default via {nftables.GATEWAY}",
                # Or a false source would already be lost in the question for this address.
                f"neighbour add {nftables.GATEWAY} lladdr {nftables.GATEWAY_MAC} dev eth0",
            ],
            path,
        )
        await guest.write("ipv4/conf/eth0/route_localnet", "1")
        await settle(socket.socket(), network.edge_address)
        await settle(await guest.socket(), nftables.GATEWAY)
        yield guest


@contextlib.asynccontextmanager
async def internet(visitor: Visitor, path: Path) -> AsyncIterator[Place]:
    """Routed through an interface `inet0` of the root namespace; a machine has one at a time."""
    async with lanes.alone("internet", "inet0"), place(path, visitor) as made:
        await ip(
            [
                f"link add inet0 type veth peer name eth0 netns {path}",
                f"address add {HOST_PUBLIC}/24 dev inet0",
                "link set inet0 up",
            ]
        )
        try:
            await ip(
                [
                    "link set lo up",
                    f"address add {INTERNET}/24 dev eth0",
                    f"address add {PRIVATE}/32 dev lo",
                    f"address add {LINK_LOCAL}/32 dev lo",
                    f"address add {METADATA}/32 dev lo",
                    "link set eth0 up",
                    f"route add default via {HOST_PUBLIC}",
                ],
                path,
            )
            await ip(
                [
                    f"route add {PRIVATE}/32 via {INTERNET}",
                    f"route add {LINK_LOCAL}/32 via {INTERNET}",
                    f"route add {METADATA}/32 via {INTERNET}",
                ]
            )
            await settle(socket.socket(), INTERNET)
            yield made
        finally:
            await ip(["link delete inet0"])


async def settle(prober: socket.socket, address: str) -> None:
    """Until a new link carries packets both ways: the kernel starts one end a little later.

    Any answer will do, a refusal too; the kernel asks again until there is one.
    """
    with prober:
        prober.settimeout(10)
        try:
            await asyncio.to_thread(prober.connect, (address, 53))
        except TimeoutError:
            raise
        except OSError:
            return


@contextlib.contextmanager
def echo(listener: socket.socket, address: tuple[str, int]) -> Iterator[None]:
    """Answer each connection (or datagram) with the server's own address, until the end."""
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.settimeout(None)
        stream = listener.type == socket.SOCK_STREAM
        if stream:
            listener.listen(8)
        thread = threading.Thread(target=_serve, args=(listener, stream), daemon=False)
        thread.start()
        try:
            yield
        finally:
            # shutdown wakes a blocked accept or recvfrom; on an unconnected UDP socket it also
            # says ENOTCONN.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _serve(listener: socket.socket, stream: bool) -> None:
    with contextlib.suppress(OSError):
        while True:
            if stream:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"hello")
                continue
            data, peer = listener.recvfrom(100)
            if not data:
                return
            listener.sendto(b"hello", peer)


async def reaches(client: socket.socket, address: tuple[str, int]) -> bool:
    """Whether an `echo` answers there; refusals and silence are both no."""
    return await asyncio.to_thread(_reaches, client, address)


def _reaches(client: socket.socket, address: tuple[str, int]) -> bool:
    with client:
        try:
            client.connect(address)
            if client.type == socket.SOCK_DGRAM:
                client.send(b"?")
            return client.recv(100) == b"hello"
        except OSError:
            return False


async def disarm(path: Path, *chains: str) -> None:
    """Empty filter chains of a MicroVM's table and let them accept."""
    hooks = {"forwarded": "forward priority 0", "local": "input priority 0"}
    lines = [f"flush chain inet vm {chain}" for chain in chains]
    lines += [
        f"chain inet vm {chain} {{ type filter hook {hooks[chain]}; policy accept; }}"
        for chain in chains
        if chain in hooks
    ]
    await nft("\n".join([*lines, ""]), path)


async def disarm_link(path: Path) -> None:
    """Let a guest send whatever frames it likes."""
    await nft(f"delete table netdev {link.TABLE}\n", path)


async def disarm_host(settings: NetworkSettings, *chains: str) -> None:
    """Empty chains of the host's table, which its pool, in this process, puts back no more."""
    keeping = [task for task in asyncio.all_tasks() if task.get_name() == KEEPING]
    for task in keeping:
        task.cancel()
    await asyncio.wait(keeping)
    table = nftables.host_table(settings)
    await nft("".join(f"flush chain inet {table} {chain}\n" for chain in chains))


async def guards() -> int:
    """How many instances, those of other tests too, let the host route nothing but theirs."""
    chains = (await query("nft", "list", "chains", "inet")).decode().split()
    return chains.count(nftables.GUARD)


Records = Mapping[str, str | Sequence[str]]
"""By name: its address, or lines of a zone as ``NAME TTL TYPE DATA`` that answer for it."""


def upstream(records: Records) -> Callable[[bytes], bytes]:
    """A resolver's answer to a query; every other name does not exist."""

    def answer(wire: bytes) -> bytes:
        query = dns.message.from_wire(wire)
        reply = dns.message.make_response(query, recursion_available=True)
        name = query.question[0].name
        found = records.get(name.to_text())
        if found is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif query.question[0].rdtype == dns.rdatatype.A:
            lines = [f"{name} 60 A {found}"] if isinstance(found, str) else found
            for owner, ttl, kind, data in (line.split(maxsplit=3) for line in lines):
                reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        return reply.to_wire(max_size=65535)

    return answer


class _Resolver(asyncio.DatagramProtocol):
    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(self._answer(data), addr)


@contextlib.asynccontextmanager
async def resolver(records: Records) -> AsyncIterator[str]:
    """A DNS server on a loopback port, UDP and TCP; yields its address as settings name it."""
    answer = upstream(records)
    loop = asyncio.get_running_loop()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = answer(await reader.readexactly(size))
        writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()
        await writer.wait_closed()

    port = lanes.free_port()
    async with await asyncio.start_server(converse, "127.0.0.1", port):
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Resolver(answer), local_addr=("127.0.0.1", port)
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            transport.close()
