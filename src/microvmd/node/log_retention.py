"""Removes logs that nobody has written to for a long time: each run and each build makes one."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

INTERVAL_S = 3600.0


async def forget_old_logs(directory: Path, retention_s: float, clock: Callable[[], float]) -> None:
    """Run for ever: a stream below a log store's directory goes when it is old enough."""
    while True:
        removed = await asyncio.to_thread(remove_older, directory, clock() - retention_s)
        if removed:
            log.info("logs.forgotten", streams=removed)
        await asyncio.sleep(INTERVAL_S)


def remove_older(directory: Path, moment: float) -> int:
    """Remove streams that were last written to before, and groups without any; how many streams."""
    count = 0
    for group in list(directory.iterdir()):
        for stream in list(group.iterdir()):
            if _written(stream) < moment:
                shutil.rmtree(stream, ignore_errors=True)
                count += 1
        with suppress(OSError):  # it is not empty, or is written to just now
            group.rmdir()
    return count


def _written(stream: Path) -> float:
    """When the last line came; the directory itself is as old as its newest file, or newer."""
    return max(path.stat().st_mtime for path in (stream, *stream.iterdir()))
