"""Keeps a node running beside a service that has given up root: it starts it again when it dies.

A process of its own, as root, that does nothing else and takes no orders: the service can only end
it, by going away. It holds the node's listening socket, so that who connects while no node runs
waits for the next.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from microvmd.service import logs as own_log
from microvmd.vmm.cores import leave_none
from microvmd.vmm.process import spawn

log = structlog.get_logger("microvmd.keeper")

PAUSES_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_S = 60.0
"""A node that lived so long is started again at once."""
GRACE_S = 25.0
"""For a node to leave what runs behind in order."""
END_LIMIT_S = 40.0
BACKLOG = 128
SOCKET = "node.sock"


def bind(path: Path, gid: int) -> socket.socket:
    """The node's socket, which root and the group may connect to."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        listener.bind(os.fspath(path))
        os.chown(path, 0, gid)
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def kept(listener: socket.socket, settings: Path) -> AsyncIterator[None]:
    """A keeper, and under it a node with these settings, until the context or this process ends.

    Leaving the context waits until both are gone: what they hold is free then.
    """
    reader, writer = os.pipe()
    listening = listener.fileno()
    argv = [sys.executable, "-m", __name__, f"--fd={listening}", f"--alive={reader}"]
    argv.append(f"--settings={settings}")
    try:
        async with spawn(
            argv, stdout=1, stderr=2, fds=[listening, reader], env=dict(os.environ)
        ) as keeper:
            # We shall have no right to signal it: it ends when the pipe does.
            keeper.detach()
            os.close(reader)
            listener.close()
            try:
                yield
            finally:
                os.close(writer)
                async with asyncio.timeout(END_LIMIT_S):
                    await keeper.wait()
    except TimeoutError:
        log.exception("keeper.stays")


async def keep(fd: int, alive: int, settings: str) -> None:
    """Run nodes, one after another, until nobody holds the other end of ``alive`` any more."""
    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()
    loop.add_reader(alive, leaving.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.set)
    argv = [sys.executable, "-m", "microvmd.service.node", f"--fd={fd}", f"--settings={settings}"]
    failures = 0
    while not leaving.is_set():
        began = loop.time()
        async with spawn(argv, stdout=1, stderr=2, fds=[fd], env=dict(os.environ)) as process:
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(leaving.wait())
                ended = await process.wait_or({waiting})  # type: ignore[arg-type]
                waiting.cancel()
            if ended is None:
                ended = await process.stop(GRACE_S)
        if leaving.is_set():
            return
        failures = 0 if loop.time() - began > HEALTHY_S else failures + 1
        pause = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
        log.error("node.ended", how=str(ended), pause=pause)
        try:
            async with asyncio.timeout(pause):
                await leaving.wait()
        except TimeoutError:
            continue


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="microvmd-keeper")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--alive", type=int, required=True)
    parser.add_argument("--settings", required=True)
    options = parser.parse_args(argv)
    own_log.configure()
    leave_none()
    asyncio.run(keep(options.fd, options.alive, options.settings))


if __name__ == "__main__":
    main()
