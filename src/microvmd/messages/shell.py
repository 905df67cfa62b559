"""A shell in a MicroVM as the edge sees it: the bytes of a terminal, and why it ended.

The edge knows endpoints and WebSockets, the node guests and processes; ``cli/`` hands one to the
other.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Any, Protocol, TypeVar

ENDPOINT_HEADER = "x-microvmd-endpoint"
"""Says to the bridge whose shell is wanted. HAProxy sets it, whatever a client sent under it."""
Ended = TypeVar("Ended")


class ShellEnd(StrEnum):
    """Why a shell ended or did not begin, other than by itself; the value is what a client reads.

    The real service's words for these are not recorded.
    """

    SUSPENDED = "MicroVM suspended"
    TERMINATED = "MicroVM terminated"
    NOT_RUNNING = "MicroVM not running"
    LOST = "MicroVM lost"
    DETACHED = "service stopping"
    TOO_MANY = "too many shells"
    NO_SHELL = "no shell could be started"
    OLD_IMAGE = "image version is too old for a shell"


class ShellEnded(Exception):
    """There is no shell, or no more."""

    def __init__(self, why: ShellEnd) -> None:
        super().__init__(why.value)
        self.why = why


class Terminal(Protocol):
    """The outer end of a shell's terminal. The first three raise ShellEnded."""

    async def read(self) -> bytes | None:
        """What the shell writes, at most 64 KiB ahead of the reader; None: it has exited."""

    async def write(self, data: bytes) -> None:
        """Type this; waits while the shell does not read."""

    async def resize(self, rows: int, cols: int) -> None:
        """Each 1 to 65535."""

    async def over(self) -> ShellEnd:
        """Wait until it ends other than by itself."""


class OpenShell(Protocol):
    """Starts a shell in a RUNNING MicroVM, of an endpoint or an id; leaving the context ends it."""

    def __call__(self, name: str, /) -> AbstractAsyncContextManager[Terminal]:
        """Entering raises ShellEnded."""


async def first_ended(*ways: Coroutine[Any, Any, Ended]) -> Ended:
    """What the directions of a shell end with: the result of the one that ends first, in the order
    given where several end at once. The others are cancelled."""
    async with asyncio.TaskGroup() as tasks:
        going = [tasks.create_task(way) for way in ways]
        await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
        first = next(way for way in going if way.done())
        for way in going:
            way.cancel()
    return first.result()
