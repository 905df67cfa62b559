"""The HAProxy process: started or adopted, reloaded without losing a connection, watched.

HAProxy runs as master and worker and makes itself a daemon, so it is no child of ours and goes on
serving RUNNING MicroVMs when we die. The master keeps root and re-executes itself for a reload; the
worker gave up every privilege and lives in an empty directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import structlog

from microvmd.edge import stats
from microvmd.edge.config import EdgeSettings
from microvmd.edge.stats import CommandFailed
from microvmd.vmm.process import Process, ProcessGone, ProcessIdentity, run

log = structlog.get_logger(__name__)

_START_LIMIT = 20.0
_RELOAD_LIMIT = 20.0
_POLL = 0.02


class HAProxyFailed(Exception):
    """HAProxy did not take a configuration or did not come up."""


class HAProxy:
    """One master process. `process` is None until it was started or adopted."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._binary = settings.haproxy
        self._files = settings.files
        self.process: Process | None = None

    async def adopt(self) -> bool:
        """Take over the master that a former run of ours left; False when there is none.

        The master itself says its pid on its socket. It is asked a second time once we hold a
        pidfd: then the pid cannot have gone to another process in between.
        """
        pid = await self._master_pid()
        if pid is None:
            return False
        try:
            process = Process.adopt(ProcessIdentity.of(pid))
        except ProcessGone:
            return False
        if await self._master_pid() != pid:
            return False
        self.process = process
        log.info("edge.haproxy_adopted", pid=pid)
        return True

    async def _master_pid(self) -> int | None:
        try:
            shown = await stats.command(self._files.master_socket, "show proc")
        except CommandFailed:
            return None
        masters = stats.parse_processes(shown)["master"]
        return masters[0] if masters else None

    async def start(self, digest: str) -> None:
        """Start from the files in place, which have this digest; it serves when this returns.

        Raises vmm.process.ProcessFailed with HAProxy's own words when it refuses to start.
        """
        await self._end_orphan()
        # fmt: off
        await run(
            [
                self._binary,
                "-D", "-W",
                "-S", f"{self._files.master_socket},mode,600",
                "-p", os.fspath(self._files.pid),
                "-f", os.fspath(self._files.config),
            ],
            timeout=_START_LIMIT,
            daemonises=True,
        )
        # fmt: on
        await self._until_serving(digest, _START_LIMIT)
        if not await self.adopt():
            raise HAProxyFailed("HAProxy ended right after its start")

    async def _end_orphan(self) -> None:
        """A worker whose master was killed must not share the port with the new one."""
        try:
            info = await stats.command(self._files.stats_socket, "show info")
        except CommandFailed:
            return
        for line in info.splitlines():
            name, _, value = line.partition(": ")
            if name == "Pid" and value.isdigit():
                with contextlib.suppress(ProcessGone):
                    await Process.adopt(ProcessIdentity.of(int(value))).kill()

    async def reload(self, digest: str) -> None:
        """Exchange the worker for one with the configuration of `digest`, which is in place.

        Listening sockets go from the old worker to the new one; open streams stay with the old.
        Raises vmm.process.ProcessFailed when HAProxy finds the configuration wrong: the old one
        goes on then.
        """
        await run([self._binary, "-c", "-f", os.fspath(self._files.config)], timeout=_START_LIMIT)
        await stats.command(self._files.master_socket, "reload")
        await self._until_serving(digest, _RELOAD_LIMIT)
        log.info("edge.haproxy_reloaded", digest=digest)

    async def _until_serving(self, digest: str, limit: float) -> None:
        """HAProxy 2.6 tells nobody when it is ready: ask worker and master until both are.

        The master executes itself anew around a start and a reload, and refuses or resets whoever
        asks it meanwhile.
        """
        try:
            async with asyncio.timeout(limit):
                while await stats.description(self._files.stats_socket) != digest:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL)
                while await self._master_pid() is None:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL)
        except TimeoutError as error:
            raise HAProxyFailed(f"configuration {digest} did not come up") from error

    async def wait(self) -> None:
        """Until the master ends. It ends by itself when its worker dies."""
        assert self.process is not None
        await self.process.wait()

    async def stop(self) -> None:
        """End master and workers, cutting open streams."""
        if self.process is not None:
            self.process.send(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self.process.wait()
            await self.process.kill()
            await self._end_orphan()
