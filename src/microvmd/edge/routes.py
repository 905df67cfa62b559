"""Tells HAProxy where each RUNNING MicroVM is.

HAProxy's map is a copy: this object has the truth and pushes it again whenever HAProxy was started
anew. Until then a missing entry costs one question to the resolver, never a wrong answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
from collections.abc import Mapping

import structlog

from microvmd.edge import stats
from microvmd.edge.activity import FORGET
from microvmd.edge.config import EdgeFiles
from microvmd.edge.stats import CommandFailed, command

log = structlog.get_logger(__name__)

_ENDPOINT_ID = re.compile(r"[a-z0-9-]{1,63}")
_STREAM = re.compile(r"^(0x[0-9a-f]+): ", re.MULTILINE)
# A command and its payload must fit HAProxy's buffer (32 KiB); an entry is at most 110 bytes.
_ENTRIES_PER_COMMAND = 200


def parse_map(text: str) -> dict[str, str]:
    """Entries of `show map`, whose lines are "reference key value"."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0].startswith("0x"):
            entries[fields[1]] = fields[2]
    return entries


def streams_to(text: str, address: str) -> list[str]:
    """References of the streams in `show sess all` whose guest connection goes to `address`."""
    parts = _STREAM.split(text)[1:]
    needle = re.compile(rf"^  server=\S+ \(id=\d+\) addr={re.escape(address)}:", re.MULTILINE)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [reference for reference, body in pairs if needle.search(body)]


async def replace_map(files: EdgeFiles, name: str, entries: Mapping[str, str]) -> None:
    """Exchange all entries of a map in one step: no lookup sees it half done."""
    answer = await command(files.stats_socket, f"prepare map {name}")
    found = re.search(r"version created: (\d+)", answer)
    if found is None:
        raise CommandFailed(f"prepare map {name}: {answer.strip()}")
    lines = [f"{key} {value}" for key, value in entries.items()]
    for start in range(0, len(lines), _ENTRIES_PER_COMMAND):
        payload = "\n".join(lines[start : start + _ENTRIES_PER_COMMAND])
        await _expect_silence(files, f"add map @{found[1]} {name} <<\n{payload}\n")
    await _expect_silence(files, f"commit map @{found[1]} {name}")


async def _expect_silence(files: EdgeFiles, line: str) -> None:
    answer = (await command(files.stats_socket, line)).strip()
    if answer:
        raise CommandFailed(f"{line.split(' <<')[0]}: {answer}")


class Routes:
    """Endpoint id to guest address. All methods may be called while HAProxy is down."""

    def __init__(self, files: EdgeFiles) -> None:
        self._files = files
        self._name = str(files.routes_map)
        self._routes: dict[str, str] = {}
        self._lock = asyncio.Lock()

    @property
    def current(self) -> Mapping[str, str]:
        return dict(self._routes)

    async def add(self, endpoint_id: str, address: str) -> None:
        """From now on requests go to the guest at once. Replaces a former address."""
        _check(endpoint_id, address)
        async with self._lock:
            self._routes[endpoint_id] = address
            try:
                line = f"set map {self._name} {endpoint_id} {address}"
                answer = await command(self._files.stats_socket, line)
                if "not found" in answer:
                    await _expect_silence(
                        self._files, f"add map {self._name} {endpoint_id} {address}"
                    )
            except CommandFailed as error:
                log.warning("edge.route_not_pushed", endpoint=endpoint_id, error=str(error))

    async def remove(self, endpoint_id: str, *, close_sessions: bool = True) -> int:
        """Requests ask the resolver again; open streams to the guest end. Returns how many did.

        Ends them also when nothing is left of the guest to end them (VMM killed, suspended).
        """
        async with self._lock:
            address = self._routes.pop(endpoint_id, None)
            try:
                await command(self._files.stats_socket, f"del map {self._name} {endpoint_id}")
                going = address if close_sessions else None
                closed = 0 if going is None else await self._close_streams(going)
                # After the last answer of before: whoever gets a route next has its own first one.
                await command(self._files.stats_socket, FORGET.format(endpoint_id))
                return closed
            except CommandFailed as error:
                log.warning("edge.route_not_removed", endpoint=endpoint_id, error=str(error))
                return 0

    async def replace(self, routes: Mapping[str, str]) -> None:
        """Make this the whole table: what is not in it is stale and goes."""
        for endpoint_id, address in routes.items():
            _check(endpoint_id, address)
        async with self._lock:
            self._routes = dict(routes)
            await replace_map(self._files, self._name, self._routes)

    async def push(self) -> None:
        """Bring a HAProxy that was started or reloaded up to date."""
        async with self._lock:
            await replace_map(self._files, self._name, self._routes)

    async def load(self) -> None:
        """Take over what an adopted HAProxy has; the owner says with `replace` what still holds."""
        async with self._lock:
            shown = await command(self._files.stats_socket, f"show map {self._name}")
            self._routes = parse_map(shown)

    def write_file(self) -> None:
        """The map as HAProxy reads it when it starts."""
        lines = "".join(f"{key} {value}\n" for key, value in self._routes.items())
        self._files.routes_map.write_text(lines)

    async def _close_streams(self, address: str) -> int:
        workers = stats.parse_processes(await command(self._files.master_socket, "show proc"))
        closed = 0
        for pid in workers["worker"] + workers["old"]:
            shown = await command(self._files.master_socket, f"@!{pid} show sess all")
            for reference in streams_to(shown, address):
                await command(self._files.master_socket, f"@!{pid} shutdown session {reference}")
                closed += 1
        return closed


def _check(endpoint_id: str, address: str) -> None:
    if not _ENDPOINT_ID.fullmatch(endpoint_id):
        raise ValueError(f"not an endpoint id: {endpoint_id!r}")
    ipaddress.ip_address(address)


def write_keys(files: EdgeFiles, keys: Mapping[str, str]) -> None:
    """The keys map as HAProxy reads it when it starts, for our eyes only."""
    descriptor = os.open(files.keys_map, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{kid} {key}\n" for kid, key in keys.items())
