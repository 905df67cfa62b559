"""The network of each MicroVM: a namespace with a tap for the guest and a veth for everything else.

All guests have the same address, because a snapshot freezes it; the namespace tells them apart.
The edge dials `Network.edge_address`, which the namespace translates to the guest. A namespace
serves one MicroVM and is then destroyed, never cleaned: connection tracking and counters are a
tenant's state.

Making one takes three processes and 10 to 25 ms, so a few stand ready. The directory of mounts
under `run` is the only record of what exists; after a crash of ours the pool finds live networks
there, to be adopted or swept.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from microvmd.model.egress import INTERNET, NOTHING, Egress
from microvmd.node import (
    dns,
    link,
    metadata,
    metadata_server,
    name_guard,
    namespace,
    nftables,
)
from microvmd.node.commands import ip, nft, tc
from microvmd.node.host import Host
from microvmd.node.name_guard import NameGuard
from microvmd.node.resolving import Resolving
from microvmd.node.slots import NetworkError, NetworkSettings, Slot, Slots
from microvmd.vmm.machine import Tap
from microvmd.vmm.process import ProcessFailed, ProcessStuck

log = structlog.get_logger(__name__)

KEEPING = "network.host"
RETRY_AFTER = 5.0
"""Seconds until the store is filled again after a failure, unless somebody takes one before."""
_NAMESPACE_SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "1",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    # A guest that ends acknowledges no more: our side of its connections to the stub would hold
    # the namespace for minutes.
    "net/ipv4/tcp_orphan_retries": "1",
    "net/ipv4/tcp_fin_timeout": "2",
}


@dataclass(slots=True, eq=False)
class Network:
    """One MicroVM's network. Comes from a `NetworkPool`, which also ends it."""

    name: str
    edge_address: str
    """Where the root namespace reaches the guest's TCP ports."""
    path: Path
    """The namespace's mount."""
    instance: metadata.Instance | None = None
    """What the guest learns at the metadata address."""
    egress: Egress | None = None
    """What its packet filter lets out now; None where that is not known."""
    _asked: Egress = NOTHING
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _tap: int | None = None
    _sockets: list[socket.socket] = field(default_factory=list, repr=False)
    _stub: dns.Stub | None = field(default=None, repr=False)
    _resolving: Resolving = field(init=False, repr=False)
    _guard: NameGuard = field(init=False, repr=False)
    _metadata: metadata_server.MetadataServer | None = field(default=None, repr=False)
    _detached: bool = False

    def open_tap(self) -> int:
        """A descriptor of the guest's tap, which the caller closes; for one VMM at a time.

        Raises NetworkError on an adopted network: there the tap belongs to the VMM that runs.
        """
        if self._tap is None:
            raise NetworkError(f"{self.name}: the tap is not ours")
        return os.dup(self._tap)

    @property
    def tap(self) -> Tap:
        """The guest's network card, for a VMM."""
        return Tap(self.path, nftables.TAP, self.open_tap, self._hand_over)

    def _hand_over(self, uid: int) -> None:
        tap = self.open_tap()
        try:
            namespace.give_tap(tap, uid)
        finally:
            os.close(tap)
        _release_tap(self)

    async def block_port(self, port: int) -> None:
        """Refuse connections of the edge to this port of the guest, established ones too."""
        await nft(nftables.block_ports([port]), self.path)

    def detach(self) -> None:
        """Leave the network alive when its context ends, for the next run of ours to adopt."""
        self._detached = True


class NetworkPool:
    """Makes, stores and destroys networks; a context manager around everything that needs them.

    Leaving it destroys the store, not networks that were detached.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        self._settings = settings
        self._ready: deque[Network] = deque()
        self._wanted = asyncio.Event()
        self._filled = asyncio.Event()
        self._left: dict[str, Path] = {}
        self._used: set[Network] = set()
        self._revoked: set[str] = set()
        self._slots = Slots(settings)
        self._visitor = namespace.Visitor()
        self._forwarder: dns.Forwarder
        self._tokens = metadata.Tokens()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._settings.namespaces.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._left = find_live(self._settings)
            taken = map(self._settings.index_of, self._left)
            self._slots = Slots(self._settings, taken, occupied=namespace.exists)
            host = Host(self._settings)
            await host.set_up()
            stack.push_async_callback(self._put_back, host)
            stack.enter_context(self._visitor)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            keeping = tasks.create_task(host.keep(), name=KEEPING)
            stack.callback(keeping.cancel)
            self._forwarder = self._make_forwarder(tasks)
            refill = tasks.create_task(self._refill(), name="network.refill")
            stack.push_async_callback(self._empty, refill)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not handed on: the task group would wrap the body's error in an ExceptionGroup.
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def network(self, egress: Egress = INTERNET) -> AsyncIterator[Network]:
        """A fresh network, out of the store if it has one, that keeps to ``egress``.

        Raises NetworkError, ProcessFailed.
        """
        network = await self._take()
        with self._in_use(network):
            await self._keep_to(network, egress)
            yield network

    @contextlib.asynccontextmanager
    async def adopt(self, name: str, egress: Egress | None = None) -> AsyncIterator[Network]:
        """Take over what a former run left alive. Raises NetworkError if none is there.

        Without ``egress`` the guest goes on with what it has: for one that is to be ended.
        """
        path = self._left.pop(name, None)
        if path is None:
            raise NetworkError(f"no network {name} to adopt")
        network = self._describe(self._settings.slot(self._settings.index_of(name)), path)
        try:
            await self._serve(network)
            if egress is not None:
                await self._keep_to(network, egress)
        except BaseException:
            self._used.discard(network)
            _close(network)
            self._left[name] = path
            raise
        with self._in_use(network):
            yield network

    async def change(self, network: Network, egress: Egress) -> None:
        """Keep a network to something else from now on, open connections included; nothing happens
        when it has ended. Raises ProcessFailed, and then it is as before."""
        before, network._asked = network._asked, egress
        failed = await self._retry(network)
        if failed is not None:
            network._asked = before
            raise failed

    async def revoke(self, grants: Set[str]) -> None:
        """Take what these versions of connectors opened from every guest, for good.

        Raises ProcessFailed when one of them could not be reached; the others have lost it.
        """
        self._revoked |= grants
        failures = [failed for network in [*self._used] if (failed := await self._retry(network))]
        if failures:
            raise failures[0]

    async def check(self, egress: Egress) -> None:
        """Raise ProcessFailed if the packet filter does not take it."""
        await nft(nftables.egress_check(self._settings, egress), check=True)

    async def sweep(self, keep: Set[str]) -> frozenset[str]:
        """Destroy what former runs left and nobody adopted, except `keep`; answers the names."""
        swept = self._left.keys() - keep
        for name in swept:
            self._destroy(name, self._left.pop(name))
        # Something may hold such a namespace although its mount is gone, as a VMM does by its tap.
        for _, name in socket.if_nameindex():
            if self._settings.owns(name) and not self._slots.holds(self._settings.index_of(name)):
                with contextlib.suppress(ProcessFailed):  # it may be vanishing by itself
                    await ip([f"link delete {name}"])
        if swept:
            log.info("network.swept", names=sorted(swept))
        return frozenset(swept)

    async def wait_ready(self) -> None:
        """Until the store is full."""
        await self._filled.wait()

    def _make_forwarder(self, tasks: asyncio.TaskGroup) -> dns.Forwarder:
        settings = self._settings
        named = tuple(dns.Upstream.parse(text) for text in settings.resolvers)
        return dns.Forwarder(
            tasks,
            (lambda: named) if named else dns.SystemResolvers(),
        )

    @contextlib.contextmanager
    def _in_use(self, network: Network) -> Iterator[None]:
        self._used.add(network)
        try:
            yield
        finally:
            self._used.discard(network)
            self._end(network)

    async def _keep_to(self, network: Network, egress: Egress) -> None:
        """This respects earlier revocations; later ones reach every network in use."""
        self._used.add(network)
        network._asked = egress
        await self._apply(network)

    async def _apply(self, network: Network) -> None:
        async with network._changing:
            wanted = network._asked.without(self._revoked)
            if wanted != network.egress:
                await nft(nftables.egress_update(self._settings, wanted), network.path)
                network.egress = wanted
                network._resolving.forget()
            await network._guard.keep_to(wanted.patterns)

    async def _retry(self, network: Network) -> ProcessFailed | None:
        try:
            await self._apply(network)
        except ProcessFailed as failed:
            # A network that ended meanwhile lets nothing out any more.
            return failed if network in self._used else None
        return None

    async def _take(self) -> Network:
        if self._ready:
            network = self._ready.popleft()
            self._filled.clear()
            self._wanted.set()
            return network
        return await self._make()

    async def _refill(self) -> None:
        while True:
            self._wanted.clear()
            try:
                while len(self._ready) < self._settings.ready:
                    self._ready.append(await self._make())
            except (OSError, NetworkError, ProcessFailed, ProcessStuck) as error:
                log.error("network.refill_failed", error=str(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), RETRY_AFTER)
                continue
            self._filled.set()
            await self._wanted.wait()

    async def _make(self) -> Network:
        """With the egress that most MicroVMs have, so that these need no further step."""
        slot = self._slots.take()
        network = self._describe(slot, self._settings.namespaces / slot.name)
        try:
            await self._visitor.make(network.path, lambda: _prepare(network))
            rules = nftables.guest_ruleset(self._settings, slot, INTERNET)
            await nft(rules + link.ruleset(), network.path)
            network.egress = network._asked = INTERNET
            await ip(_root_commands(slot, network.path))
            await ip(_guest_commands(slot), network.path)
            await tc(link.shaping(self._settings.bandwidth_mbit), network.path)
            await self._serve(network)
        except BaseException:
            self._destroy_network(network)
            raise
        return network

    def _describe(self, slot: Slot, path: Path) -> Network:
        network = Network(slot.name, slot.edge_address, path)
        network._guard = NameGuard(self._settings.guards / slot.name, path, nftables.GATEWAY)
        network._resolving = Resolving(
            self._settings.subnet,
            lambda: network.egress,
            lambda text: self._pin(network, text),
        )
        return network

    async def _serve(self, network: Network) -> None:
        """Give the guest its metadata service and DNS stub, on addresses that are there by now."""
        await self._visitor.inside(network.path, lambda: _bind(network))
        *resolving, listener = network._sockets
        network._metadata = metadata_server.MetadataServer(
            self._forwarder.tasks, listener, lambda ask: self._inform(network, ask)
        )
        network._stub = dns.Stub(self._forwarder, resolving, network._resolving)

    async def _pin(self, network: Network, statements: str) -> None:
        """A guard that has died comes back here, before the guest asks it for anything."""
        async with network._changing:
            await nft(statements, network.path)
            await network._guard.keep_to((network.egress or NOTHING).patterns)

    async def _inform(self, network: Network, ask: metadata.Ask) -> metadata.Answer:
        return await metadata.answer(ask, network.instance, self._tokens, time.time())

    def _end(self, network: Network) -> None:
        """Needs no await, so no cancellation can interrupt it."""
        if network._detached:
            _close(network)
        else:
            self._destroy_network(network)

    def _destroy_network(self, network: Network) -> None:
        _close(network)
        self._destroy(network.name, network.path)

    def _destroy(self, name: str, path: Path) -> None:
        """The kernel removes the veth some time later; its slot is not given away before that."""
        name_guard.end(self._settings.guards / name)
        namespace.destroy(path)
        self._slots.free(self._settings.index_of(name))

    async def _empty(self, refill: asyncio.Task[None]) -> None:
        refill.cancel()
        await asyncio.wait([refill])
        while self._ready:
            self._destroy_network(self._ready.popleft())

    async def _put_back(self, host: Host) -> None:
        if not find_live(self._settings):
            await host.put_back()


def find_live(settings: NetworkSettings) -> dict[str, Path]:
    """Mounts of live namespaces by name; clears files that a crash left without a namespace."""
    found = {}
    for path in settings.namespaces.iterdir():
        if not namespace.is_live(path):
            path.unlink()
        elif settings.owns(path.name):
            found[path.name] = path
    return found


def _prepare(network: Network) -> None:
    """Runs inside a new namespace: kernel settings and the tap."""
    for name, value in _NAMESPACE_SETTINGS.items():
        path = Path("/proc/sys") / name
        if path.exists():  # a kernel without IPv6 has none of its settings
            path.write_text(value)
    network._tap = namespace.make_tap(nftables.TAP)


def _bind(network: Network) -> None:
    """Runs inside the namespace. The metadata service is there whatever the egress."""
    network._sockets = dns.bind((nftables.GATEWAY, nftables.LINK_RESOLVER))
    network._sockets.append(metadata_server.bind())


def _root_commands(slot: Slot, path: Path) -> list[str]:
    pair = ipaddress.ip_interface(f"{slot.root_address}/30").network
    return [
        f"link add {slot.name} group {nftables.GROUP} type veth "
        f"peer name {nftables.UPLINK} netns {path}",
        f"address add {slot.root_address}/30 dev {slot.name}",
        f"link set {slot.name} up",
        # Many applications write headers and body apart and wait for the first to be acknowledged
        # (Nagle). A delayed acknowledgement of ours would cost each answer 40 ms.
        f"route change {pair} dev {slot.name} proto kernel scope link "
        f"src {slot.root_address} quickack 1",
    ]


def _guest_commands(slot: Slot) -> list[str]:
    uplink, tap = nftables.UPLINK, nftables.TAP
    return [
        "link set lo up",
        f"address add {nftables.LINK_RESOLVER}/32 dev lo",
        f"address add {nftables.METADATA}/32 dev lo",
        f"address add {slot.edge_address}/30 dev {uplink}",
        f"link set {uplink} up",
        f"route add default via {slot.root_address}",
        # The guest's snapshot holds the gateway's hardware address: it is the same everywhere.
        f"link set {tap} address {nftables.GATEWAY_MAC} up",
        f"address add {nftables.GATEWAY}/{nftables.GUEST_PREFIX} dev {tap}",
        f"neighbour replace {nftables.GUEST} lladdr {nftables.GUEST_MAC} dev {tap} nud permanent",
    ]


def _close(network: Network) -> None:
    """Give up what our process holds of a network."""
    if network._stub is not None:
        network._stub.close()
    if network._metadata is not None:
        network._metadata.close()
    for item in network._sockets:
        item.close()
    _release_tap(network)


def _release_tap(network: Network) -> None:
    """It stays where it is; whoever may can open it now."""
    if network._tap is not None:
        os.close(network._tap)
        network._tap = None
