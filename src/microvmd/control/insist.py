"""Work that must not be lost because the store cannot write now: its disk is full, or it is locked.

A report of the node that nobody keeps would leave a MicroVM in a state that it has long left, and a
loop that ends would end the service. Both are tried again until the store can write.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from microvmd.model.errors import StoreUnavailable

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 2.0

log = structlog.get_logger(__name__)


async def insist(work: Callable[[], Awaitable[None]], what: str) -> None:
    """Do ``work``, which must do no harm when it is done anew, until it does not fail for want of
    disk (StoreUnavailable, OSError). Any other failure is the caller's."""
    wait = FIRST_WAIT_S
    while True:
        try:
            return await work()
        except (StoreUnavailable, OSError) as error:
            log.warning("insist.again", what=what, seconds=wait, error=str(error).splitlines()[0])
        await asyncio.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_S)
