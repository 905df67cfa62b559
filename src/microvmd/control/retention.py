"""TERMINATED MicroVMs are shown for a while, then forgotten, so that the record does not grow.

Row by row nothing is slow, so it is the number of them that must not matter: they go in small
batches, and other decisions are made between two of them.
"""

import asyncio
from collections.abc import Callable

import structlog

from microvmd.control.store import Store, Transaction

BATCH = 200
LONGEST_WAIT_S = 600.0
SHORTEST_WAIT_S = 1.0

log = structlog.get_logger(__name__)


async def in_batches(store: Store, forget: Callable[[Transaction, int], int], size: int) -> int:
    """Call ``forget``, which says how many it has forgotten, until it has not ``size`` any more;
    how many there were. Other decisions are made between two batches."""
    count = 0
    while True:
        found = await store.run(lambda tx: forget(tx, size))
        count += found
        if found < size:
            return count


async def forget_ended(store: Store, retention_s: float, clock: Callable[[], float]) -> None:
    """Run for ever: a MicroVM is gone soon after ``retention_s`` seconds from its end."""
    pause = min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, retention_s / 10))
    while True:
        await forget_before(store, clock() - retention_s)
        await asyncio.sleep(pause)


async def forget_before(store: Store, moment: float) -> int:
    """Forget all that ended before; how many there were."""
    count = await in_batches(store, lambda tx, size: tx.forget_terminated(moment, size), BATCH)
    if count:
        log.info("microvms.forgotten", count=count)
    return count
