"""The seam between a build and its isolation.

A workshop takes a prepared job to where the Dockerfile runs and brings back an exit code; the
files of the order are its inputs and outputs. There are two: ``in_namespace`` and ``in_microvm``.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from microvmd.build import layers
from microvmd.build.job import Job
from microvmd.build.lines import LINES_PER_SECOND
from microvmd.build.toolchain import ImageStore, Toolchain
from microvmd.model.egress import INTERNET, Egress

Log = Callable[[str], None]
_FREE_FLOOR = 1 << 30
_LOOK_SECONDS = 1.0
_MEASURE_SECONDS = 5.0


class DiskFull(Exception):
    """The node's own disk has no room for this build."""


class StoreFull(Exception):
    """The build takes more of the node's disk than it may."""


class OutOfTime(Exception):
    """The build was ended because its time was over."""


class Unenclosed(Exception):
    """This isolation cannot keep a build to its egress."""


@dataclass(frozen=True, slots=True)
class Order:
    """One build as a workshop sees it. ``egress`` is what the Dockerfile's steps may reach.

    ``extras`` is a folder of small files for the builder; ``output`` and ``result`` exist and are
    written by it. ``layers`` is the folder of the layer store (see ``layers``). ``memory_bytes`` is
    how much memory the files may take, where they lie in memory. ``log_lines`` of what it prints
    are kept in a second.
    """

    archive: Path
    extras: Path
    output: Path
    result: Path
    layers: Path
    stores: tuple[ImageStore, ...]
    toolchain: Toolchain
    time_limit: float
    egress: Egress = INTERNET
    memory_bytes: int = 0
    log_lines: int = LINES_PER_SECOND


@contextlib.asynccontextmanager
async def watch_space(path: Path, store: Path | None = None, limit: int = 0) -> AsyncIterator[None]:
    """Cancel the block, and raise DiskFull, before the node itself suffers from a build.

    Sparse disks and overlay stores grow on the node's own file system, which has no quota. Where
    ``store`` is a folder of such files, StoreFull is raised once it takes over ``limit`` bytes.
    """
    try:
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(_until_full(path))]
            if store is not None:
                watches.append(group.create_task(_until_over(store, limit)))
            yield
            for watch in watches:
                watch.cancel()
    except BaseExceptionGroup as errors:
        # One at most is ours; the other is the cancellation that it caused.
        raise (errors.subgroup((DiskFull, StoreFull)) or errors).exceptions[0] from errors


async def _until_full(path: Path) -> None:
    while True:
        usage = await asyncio.to_thread(shutil.disk_usage, path)
        if usage.free < _FREE_FLOOR:
            raise DiskFull
        await asyncio.sleep(_LOOK_SECONDS)


async def _until_over(store: Path, limit: int) -> None:
    while True:
        if await layers.used_bytes(store) > limit:
            raise StoreFull
        await asyncio.sleep(_MEASURE_SECONDS)


class Workshop(Protocol):
    """One kind of isolation."""

    def base_path(self, store: ImageStore, position: int) -> str:
        """Where the builder will see this image store."""
        ...

    def complete(self, job: Job) -> Job:
        """Add to the job what this isolation needs."""
        ...

    async def run(self, order: Order, log: Log) -> int:
        """Run the order to its end; return the exit code of ``inside``.

        Raises DiskFull, OutOfTime and Unenclosed; when it is left, nothing of the build is alive
        or mounted.
        """
        ...

    async def forget_layers(self, order: Order) -> bool:
        """Drop the account's layer store; False if there was none. The caller holds its lock."""
        ...
