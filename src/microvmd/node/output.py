"""What the application of a MicroVM prints: into the log store from its first moment to its last.

Read from before the first hook on, so that the log tells why a hook failed.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from microvmd.messages.node import MicrovmSpec
from microvmd.model.pace import Pace
from microvmd.node.delivery import Deliveries
from microvmd.node.guest_streams import LogQueue, log_cost
from microvmd.node.logs import LogStore, lines_of
from microvmd.node.roles import RoleSession
from microvmd.vmm.causes import ungrouped

log = structlog.get_logger(__name__)

RATE = 2 * 1024 * 1024
BURST = 8 * 1024 * 1024
"""Of `log_cost`, that one guest may have kept per second and at once. What it prints beyond that
takes the place of older lines that wait, which a line in the log then tells."""


@asynccontextmanager
async def output_kept(
    output: LogQueue,
    spec: MicrovmSpec,
    store: LogStore,
    deliveries: Deliveries,
    role: RoleSession | None,
) -> AsyncIterator[None]:
    """Keep, and deliver, what a guest prints while the context lasts, its last words too."""
    with ungrouped():
        async with (
            deliveries.deliver(spec.microvm_id, spec.log, spec.delivery, role),
            asyncio.TaskGroup() as tasks,
        ):
            pumping = tasks.create_task(_pump(output, spec, store))
            try:
                yield
            finally:
                output.end()
                # Not left to the group, which cancels it when the MicroVM fails.
                await pumping


async def paced(output: LogQueue) -> AsyncIterator[tuple[int, bytes]]:
    """What a guest prints, no faster than it may."""
    pace = Pace(RATE, BURST)
    async for stream, data in output:
        yield stream, data
        wait = pace.spend(log_cost(data), time.monotonic())
        if wait > 0:
            await output.rest(wait)


async def _pump(output: LogQueue, spec: MicrovmSpec, store: LogStore) -> None:
    """A task's border: a MicroVM goes on without its log."""
    try:
        async for lines in lines_of(paced(output)):
            await store.append(spec.log.group, spec.log.stream, lines)
    except Exception:
        log.exception("microvm.log_lost", id=spec.microvm_id)
