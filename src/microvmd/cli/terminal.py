"""This process's own terminal as one end of a shell: raw input, sizes, and the way out.

Where standard input is no terminal (a pipe, a file) its bytes are sent as they are.
"""

import asyncio
import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Self

CHUNK = 16 * 1024
ESCAPE = ord("~")
LEAVE = ord(".")


class Escapes:
    """Finds ``~.`` at the begin of a line, as ssh does; ``~~`` there is one ``~``."""

    def __init__(self) -> None:
        self._line_begins = True
        self._held = False
        self.left = False
        """``~.`` was typed: what follows it is dropped."""

    def feed(self, data: bytes) -> bytes:
        """What is to be sent of ``data``; a ``~`` waits for what follows it."""
        out = bytearray()
        for byte in data:
            if self._held:
                self._held = False
                if byte == LEAVE:
                    self.left = True
                    break
                if byte != ESCAPE:
                    out.append(ESCAPE)
            elif self._line_begins and byte == ESCAPE:
                self._held = True
                continue
            out.append(byte)
            self._line_begins = byte in b"\r\n"
        return bytes(out)


class LocalTerminal:
    """Standard input and output. Inside the context a terminal is raw; it is restored after it."""

    def __init__(self, source: int | None = None, target: int | None = None) -> None:
        self._source = sys.stdin.fileno() if source is None else source
        self._target = sys.stdout.fileno() if target is None else target
        self.interactive = os.isatty(self._source)

    def __enter__(self) -> Self:
        if self.interactive:
            self._before = termios.tcgetattr(self._source)
            # What was typed while the connection was made is not thrown away.
            tty.setraw(self._source, termios.TCSADRAIN)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.interactive:
            # At once: output that the terminal has stopped must not keep it raw.
            termios.tcsetattr(self._source, termios.TCSANOW, self._before)

    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        columns, rows = os.get_terminal_size(self._source)
        return rows, columns

    async def read(self) -> bytes:
        """The next input; nothing at its end."""
        await self._readable()
        try:
            return os.read(self._source, CHUNK)
        except OSError:
            return b""  # the terminal hung up

    def write(self, data: bytes) -> None:
        """Blocks until it is taken: whoever sends waits meanwhile. Raises BrokenPipeError."""
        while data:
            try:
                data = data[os.write(self._target, data) :]
            except BlockingIOError:  # somebody else's doing, for standard streams are shared
                select.select([], [self._target], [])

    async def _readable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        try:
            loop.add_reader(self._source, ready.set)
        except PermissionError:
            return  # a regular file: always readable
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._source)
