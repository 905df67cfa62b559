"""What an instance changes in the root namespace: a table, a route, and ip_forward.

The host must route between veths and its uplink. If `ip_forward` was off, it is turned on, the
former value is kept in the run directory, the table lets nothing else be routed, and the value is
put back when the last network of the last instance is gone. An instance that finds forwarding on
because of another one knows it by that one's guard, and takes over the duty to put it back.

Others change the packet filter too: `flush ruleset` begins Debian's own /etc/nftables.conf, and
with the table goes what keeps guests from the host. The kernel tells of each change, and what is
missing then is put back.

The route makes addresses of the subnet that no network has unreachable at once: without it, a
request to a MicroVM that is gone would leave through the host's uplink.
"""

import asyncio
import contextlib
import ipaddress
import json
import socket
from dataclasses import dataclass
from pathlib import Path

import structlog

from microvmd.node import nftables
from microvmd.node.commands import ip, nft, query
from microvmd.node.slots import NetworkError, NetworkSettings
from microvmd.vmm.process import ProcessFailed, ProcessStuck

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0
"""Seconds from one look at the table to the next, however much changes meanwhile."""
_NETLINK_NETFILTER = 12
_NFTABLES_CHANGES = 1 << 6
"""NFNLGRP_NFTABLES as a bit (linux/netfilter/nfnetlink.h)."""
_READ = 1 << 16
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_LAST_METRIC = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Host:
    """The root namespace's side of an instance."""

    settings: NetworkSettings

    async def set_up(self) -> None:
        """Raises NetworkError when the subnet is in use by somebody else."""
        check_free(json.loads(await query("ip", "-json", "-4", "address", "show")), self.settings)
        # The table comes first: forwarding is never on without it.
        await self._make_table()
        await ip([f"route replace {self._route}"])
        if not _forwards():
            _set_forwarding("1")

    async def keep(self) -> None:
        """Until it is cancelled: put back what others take out of the table."""
        with _changes() as changes:
            made = await self._table()
            while True:
                try:
                    found = await self._table()
                    if made is None or found != made:
                        await self._make_table()
                        made = await self._table()
                        log.warning("host.table_put_back", table=nftables.host_table(self.settings))
                except (ProcessFailed, ProcessStuck, OSError) as error:
                    log.warning("host.table_not_put_back", error=str(error))
                await asyncio.sleep(LOOK_EVERY)
                await _told(changes)

    async def _make_table(self) -> None:
        only_ours = await self._was_off()
        await nft(nftables.host_ruleset(self.settings, only_ours=only_ours))

    async def _table(self) -> bytes | None:
        """As nft prints it; None when there is none."""
        with contextlib.suppress(ProcessFailed):
            name = nftables.host_table(self.settings)
            return await query("nft", "--stateless", "list", "table", "inet", name)
        return None

    async def put_back(self) -> None:
        """Undo `set_up`; only when no network of the instance is left."""
        own = nftables.host_table(self.settings)
        tables = (await query("nft", "list", "tables", "inet")).decode().splitlines()
        others = {line.split()[-1] for line in tables} - {own}
        alone = not any(nftables.is_host_table(name) for name in others)
        if alone and await self._was_off():
            _set_forwarding("0")
        self._former.unlink()
        await ip([f"route delete {self._route}"])
        await nft(f"delete table inet {own}\n")

    @property
    def _route(self) -> str:
        return f"unreachable {self.settings.subnet} metric {_LAST_METRIC}"

    @property
    def _former(self) -> Path:
        return self.settings.run / "ip_forward"

    async def _was_off(self) -> bool:
        """Whether forwarding was off before all of us; the first run finds out and keeps it."""
        if not self._former.exists():
            # In this order: an instance that starts beside us makes its guard before it forwards.
            off = not _forwards()
            off = off or has_guard(json.loads(await query("nft", "--json", "list", "chains")))
            self._former.write_text("0" if off else "1")
        return self._former.read_text() == "0"


def _changes() -> socket.socket:
    """Tells of each change of the packet filter of this thread's namespace."""
    changes = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
    )
    changes.bind((0, _NFTABLES_CHANGES))
    return changes


async def _told(changes: socket.socket) -> None:
    """Wait for a change; all that have come are one."""
    with contextlib.suppress(OSError):  # EAGAIN: all are read; ENOBUFS: more than it holds
        await asyncio.get_running_loop().sock_recv(changes, _READ)
        while True:
            changes.recv(_READ)


def _forwards() -> bool:
    return _FORWARD.read_text().strip() != "0"


def _set_forwarding(value: str) -> None:
    _FORWARD.write_text(value)


def has_guard(listing: dict[str, list[dict[str, dict[str, object]]]]) -> bool:
    """Whether an instance turned forwarding on, by what `nft --json list chains` prints."""
    chains = [item["chain"] for item in listing["nftables"] if "chain" in item]
    return any(
        chain["name"] == nftables.GUARD and nftables.is_host_table(str(chain["table"]))
        for chain in chains
    )


def check_free(links: list[dict[str, object]], settings: NetworkSettings) -> None:
    """Raise NetworkError if an interface of somebody else has an address in our subnet.

    `links` is what `ip -json -4 address show` prints.
    """
    for link in links:
        name, addresses = link.get("ifname"), link.get("addr_info", [])
        if not isinstance(name, str) or not isinstance(addresses, list) or settings.owns(name):
            continue
        for item in addresses:
            other = ipaddress.ip_network(f"{item['local']}/{item['prefixlen']}", strict=False)
            if other.overlaps(settings.subnet):
                raise NetworkError(f"subnet {settings.subnet} is in use: {name} has {other}")
