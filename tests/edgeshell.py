"""A shell of this machine on a real terminal, in the place of one in a guest."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncIterator

from microvmd.messages.shell import ShellEnd, ShellEnded

CHUNK = 4096


class LocalShell:
    """Implements `messages.shell.Terminal`; `end` plays the MicroVM's end."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._why: asyncio.Future[ShellEnd] = asyncio.get_running_loop().create_future()
        self.taken = 0
        """Bytes read from the terminal so far."""

    def end(self, why: ShellEnd) -> None:
        self._why.set_result(why)

    async def over(self) -> ShellEnd:
        return await asyncio.shield(self._why)

    async def _ended(self) -> bool:
        await self.over()
        return True

    async def read(self) -> bytes | None:
        while True:
            try:
                data = os.read(self._terminal, CHUNK)
            except BlockingIOError:
                await self._until_ready(reading=True)
            except OSError:  # EIO: the last process is gone
                return None
            else:
                self.taken += len(data)
                return data

    async def write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._terminal, data) :]
            except BlockingIOError:
                await self._until_ready(reading=False)

    async def resize(self, rows: int, cols: int) -> None:
        size = struct.pack("HHHH", rows, cols, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    async def _until_ready(self, *, reading: bool) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        add = loop.add_reader if reading else loop.add_writer
        remove = loop.remove_reader if reading else loop.remove_writer
        add(self._terminal, ready.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                ways = [tasks.create_task(ready.wait()), tasks.create_task(self._ended())]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
            if self._why.done():
                raise ShellEnded(self._why.result())
        finally:
            remove(self._terminal)


@contextlib.asynccontextmanager
async def local_shell() -> AsyncIterator[LocalShell]:
    """Bash, killed with its whole session at the end."""
    terminal, inner = os.openpty()
    os.set_blocking(terminal, False)
    try:
        process = await asyncio.create_subprocess_exec(
            *("setsid", "--ctty", "bash", "--norc", "--noprofile"),
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={"PATH": os.environ["PATH"], "TERM": "xterm", "PS1": "$ "},
        )
        os.close(inner)
        try:
            yield LocalShell(terminal)
        finally:
            with contextlib.suppress(ProcessLookupError):
                # Alone first: it may not have made its own group yet.
                process.kill()
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    finally:
        os.close(terminal)
