"""Conversation with one QEMU over its monitor socket: commands, events, passing of files."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from qemu.qmp import ConnectError, EventListener, Message, QMPClient, QMPError
from qemu.qmp.error import ProtocolError

from microvmd.model.pace import Pace

COMMAND_LIMIT = 30.0
"""Seconds for a command that only has to be understood; a busy node under TCG is slow."""
MESSAGE_LIMIT = 1 << 20
"""Bytes of one message; what QEMU answers to what we ask has a few thousand."""
MESSAGE_COST = 4096
"""What a message costs beside its bytes, as bytes: the library takes about 0.1 ms for one."""
RATE, BURST = 1 << 20, 8 << 20
"""Cost each second and at once. A QEMU that nobody took over says a hundredth of it."""

# The library logs every broken connection as an error; a VMM that ends is none.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)


class QmpFailed(Exception):
    """QEMU refused a command, did not answer in time or went away."""


class _PacedClient(QMPClient):
    """Reads what a VMM says no faster than it may make the node work."""

    def __init__(self, name: str) -> None:
        super().__init__(name, MESSAGE_LIMIT)
        self._pace = Pace(RATE, BURST)

    async def _readline(self) -> bytes:
        line = await super()._readline()
        await asyncio.sleep(self._pace.spend(MESSAGE_COST + len(line), time.monotonic()))
        return line

    async def _do_recv(self) -> Message:
        try:
            return await super()._do_recv()
        except (ValueError, RecursionError) as error:
            # A line without end, or deeper than Python reads: the library lets both through.
            raise ProtocolError(f"QEMU said what no QEMU says: {error}") from error


class Qmp:
    """Connected monitor. QEMU serves one connection at a time; the next one waits its turn."""

    def __init__(self, name: str) -> None:
        self._client = _PacedClient(name)
        self._client.events.event_filter = self._hear
        self._reason: str | None = None

    async def connect(self, path: Path) -> None:
        try:
            async with asyncio.timeout(COMMAND_LIMIT):
                await self._client.connect(os.fspath(path))
        except (ConnectError, TimeoutError) as error:
            raise QmpFailed(f"QEMU does not answer on its monitor: {error!r}") from error

    async def close(self) -> None:
        with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
            async with asyncio.timeout(COMMAND_LIMIT):
                await self._client.disconnect()

    @property
    def version(self) -> str:
        """Number and package, for example `10.0.2 (Debian 1:10.0.2+ds-2)`."""
        greeting = self._client.greeting
        assert greeting is not None
        version = cast("dict[str, Any]", greeting.QMP.version)
        number = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
        return f"{number} ({version['package']})" if version.get("package") else number

    @property
    def shutdown_reason(self) -> str | None:
        """QEMU's own word (`ShutdownCause`) for why it ends, once it has said so."""
        return self._reason

    def _hear(self, event: Message) -> bool:
        """Of each event. False: the listener would keep for ever what it accepts, and a VMM that
        was taken over may say the same again and again."""
        data = event.get("data")
        if event.get("event") == "SHUTDOWN" and isinstance(data, dict) and data.get("reason"):
            self._reason = str(data["reason"])
        return False

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit: float = 0
    ) -> object:
        try:
            async with asyncio.timeout(limit or COMMAND_LIMIT):
                return await self._client.execute(command, arguments)
        except (QMPError, TimeoutError, EOFError, OSError) as error:
            raise QmpFailed(f"{command}: {error or type(error).__name__}") from error

    @contextlib.contextmanager
    def events(self, *names: str) -> Iterator[EventListener]:
        with self._client.listener(names) as listener:
            yield listener

    async def add_file(self, fd: int, fdset: int) -> str:
        """Hand an open file to QEMU; gives the name under which it can open it."""
        try:
            self._client.send_fd_scm(fd)
        except (QMPError, OSError) as error:
            raise QmpFailed(f"cannot pass a file: {error}") from error
        await self.execute("add-fd", {"fdset-id": fdset})
        return f"/dev/fdset/{fdset}"

    async def remove_file(self, fdset: int) -> None:
        await self.execute("remove-fd", {"fdset-id": fdset})

    async def capabilities(
        self, *, x_ignore_shared: bool = False, mapped_ram: bool = False
    ) -> None:
        """Set exactly these migration capabilities."""
        wanted = {"events": True, "x-ignore-shared": x_ignore_shared, "mapped-ram": mapped_ram}
        states = [{"capability": name, "state": state} for name, state in wanted.items()]
        await self.execute("migrate-set-capabilities", {"capabilities": states})

    async def migrate(self, command: str, path: str, *, limit: float) -> None:
        """Run `migrate` or `migrate-incoming` on a file to its end, at most `limit` seconds."""
        with self.events("MIGRATION") as listener:
            await self.execute(command, {"uri": f"file:{path}"})
            try:
                async with asyncio.timeout(limit):
                    status = await self._migration_end(listener)
            except TimeoutError as error:
                raise QmpFailed(f"{command}: not done after {limit} s") from error
        if status != "completed":
            raise QmpFailed(f"{command}: {status}: {await self._migration_error()}")

    async def _migration_end(self, listener: EventListener) -> str:
        while True:
            try:
                async with asyncio.timeout(1):
                    event = await listener.get()
            except TimeoutError:
                # A QEMU that dies sends no event; this raises then.
                await self.execute("query-status")
                continue
            status = str(cast("dict[str, Any]", event["data"])["status"])
            if status in ("completed", "failed", "cancelled"):
                return status

    async def _migration_error(self) -> str:
        with contextlib.suppress(QmpFailed):
            result = await self.execute("query-migrate")
            if isinstance(result, dict):
                return str(result.get("error-desc", "no reason given"))
        return "no reason given"


async def port_opened(listener: EventListener) -> None:
    """Wait for the VSERPORT_CHANGE that tells of a guest opening a port."""
    async for event in listener:
        if cast("dict[str, Any]", event["data"])["open"]:
            return
