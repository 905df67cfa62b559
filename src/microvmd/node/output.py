"""What the application of a MicroVM prints: into the log store from its first moment to its last.

Read from before the first hook on, so that the log tells why a hook failed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from microvmd.messages.node import MicrovmSpec
from microvmd.node.delivery import Deliveries
from microvmd.node.guest_streams import LogQueue
from microvmd.node.logs import LogStore, lines_of
from microvmd.node.roles import RoleSession
from microvmd.vmm.causes import ungrouped

log = structlog.get_logger(__name__)


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


async def _pump(output: LogQueue, spec: MicrovmSpec, store: LogStore) -> None:
    """A task's border: a MicroVM goes on without its log."""
    try:
        async for lines in lines_of(output):
            await store.append(spec.log.group, spec.log.stream, lines)
    except Exception:
        log.exception("microvm.log_lost", id=spec.microvm_id)
