"""Cleanup that a cancellation cannot cut in half.

A `finally` block is safe from the cancellation that led into it, but not from a second one (an
outer timeout, the end of the program). Releasing a VMM or a mount half way is worse than being
late.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def shielded(
    work: Coroutine[Any, Any, T], *, limit: float, on_cancel: Callable[[], None] | None = None
) -> T:
    """Run `work` to its end whatever happens to the caller, who is cancelled only afterwards.

    `on_cancel` may tell the work to give up early (a thread cannot be cancelled from outside).
    Raises TimeoutError when it takes longer than `limit` seconds; the work is cancelled then.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    # Owned: this function does not return before the task is done.
    task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        if loop.time() >= deadline:
            task.cancel()
        try:
            await asyncio.wait({task}, timeout=max(deadline - loop.time(), 0.1))
        except asyncio.CancelledError as error:
            cancelled = error
            if on_cancel:
                on_cancel()
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen, so that it is not logged as lost
        raise cancelled
    if task.cancelled():
        raise TimeoutError(f"cleanup took longer than {limit} s")
    return task.result()
