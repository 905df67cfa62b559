"""Who asks an endpoint all the time while another is attacked, and what HAProxy takes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from microvmd.edge import stats
from tests.edgelab import World


async def worker(w: World) -> int:
    """The process of HAProxy that serves."""
    shown = await stats.command(w.settings.files.master_socket, "show proc")
    return stats.parse_processes(shown)["worker"][0]


def resident(pid: int) -> int:
    """Bytes of memory that a process takes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.asynccontextmanager
async def neighbour(w: World) -> AsyncIterator[Counter[int]]:
    """Asks vm-b all the time; fails unless each answer was 200 and there were some."""
    statuses: Counter[int] = Counter()
    over = asyncio.Event()

    async def ask_on() -> None:
        headers = {"X-aws-proxy-auth": w.token("vm-b", vcpus=1000)}
        while not (over.is_set() and statuses):
            # Connections of its own: new ones must be let in, too.
            async with w.client() as client:
                for _ in range(5):
                    statuses[(await w.get(client, "vm-b", "/", headers)).status_code] += 1

    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask_on())
        try:
            yield statuses
        finally:
            over.set()
        await asking
    assert set(statuses) == {200}, statuses
    assert statuses[200] >= 5


async def answered(statuses: Counter[int], more: int = 10) -> None:
    """Until the neighbour has had so many more answers."""
    wanted = statuses.total() + more
    while statuses.total() < wanted:  # noqa: ASYNC110 - an answer tells nobody else
        await asyncio.sleep(0.01)
