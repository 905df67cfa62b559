"""Client of HAProxy's command sockets: the worker's (maps, tables, streams) and the master's."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

_COMMAND_LIMIT = 10.0
_WORKER_LINE = re.compile(r"^(\d+)\s+(\S+)\s", re.MULTILINE)


class CommandFailed(Exception):
    """HAProxy is not there, or did not answer within ten seconds."""


async def command(socket: Path, line: str) -> str:
    """Send one command (with its payload, if any) and return what HAProxy says to it."""
    try:
        async with asyncio.timeout(_COMMAND_LIMIT):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(line.encode() + b"\n")
                # The master's socket stays open for more commands until it sees the end of ours.
                writer.write_eof()
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise CommandFailed(f"{socket.name}: {line.split(' <<')[0]}: {error!r}") from error


async def description(socket: Path) -> str | None:
    """The digest of the configuration that the current worker runs; None when there is none."""
    try:
        info = await command(socket, "show info")
    except CommandFailed:
        return None
    found = re.search(r"^description: (\S+)", info, re.MULTILINE)
    return found[1] if found else None


def parse_processes(text: str) -> dict[str, list[int]]:
    """Pids by kind ("master", "worker", "old") from the master's `show proc`."""
    processes: dict[str, list[int]] = {"master": [], "worker": [], "old": []}
    current, _, old = text.partition("# old workers")
    for part, kind in ((current, None), (old.partition("# programs")[0], "old")):
        for pid, name in _WORKER_LINE.findall(part):
            processes.setdefault(kind or name, []).append(int(pid))
    return processes


async def command_all(master: Path, worker: Path, line: str) -> list[str]:
    """The same command to the current worker and to those that a reload left with open streams."""
    answers = [await command(worker, line)]
    for pid in parse_processes(await command(master, "show proc"))["old"]:
        try:
            answers.append(await command(master, f"@!{pid} {line}"))
        except CommandFailed:  # its last stream has just ended
            continue
    return answers
