"""Output of a VMM and of its guest's serial port, kept in files of bounded size.

A guest can print without end, and a VMM writes on while the node restarts. The VMM therefore
writes to a FIFO, not to a file: the node moves what comes into a log that is cut at a limit; while
no node reads, the kernel's pipe buffer (64 KiB) fills and the rest is dropped, not waited for. The
VMM holds a read end as well, so that a node's death is no broken pipe. What is in the pipe goes
with the last who holds it: of a VMM that ends while no node runs the last words are lost.

The node looks only so often: a guest that prints byte by byte, or a VMM that was taken over and
writes all the time, would else keep it busy with nothing but that.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

LIMIT = 256 << 10
"""Bytes of a log before it is moved aside; at most twice as much is kept."""
TAIL = 2000
PIECE = 65536
PAUSE = 0.05
"""Seconds between two looks at what has come."""


def tail(log: Path) -> str:
    """The last lines of a log that a `BoundedLog` has written; nothing if there is none."""
    text = b""
    for path in (log, _older(log)):
        if len(text) < TAIL and path.exists():
            text = path.read_bytes()[len(text) - TAIL :] + text
    return text.decode(errors="replace").strip()


def _older(log: Path) -> Path:
    return log.with_suffix(".log.1")


class BoundedLog:
    """Moves a FIFO into a log file. Open it before the VMM starts, and again to adopt one."""

    def __init__(self, log: Path, seen: Callable[[Path, bytes], None] | None = None) -> None:
        """``seen`` is called with each piece that comes, and where the log lies now."""
        self._log = log
        self._seen = seen
        self.fifo = log.with_suffix(".fifo")
        self._older = _older(log)
        self._loop = asyncio.get_running_loop()
        self._size = 0
        self._ended = False
        self._looking_again: asyncio.TimerHandle | None = None

    def __enter__(self) -> "BoundedLog":
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.fifo, 0o600)
        self._reader = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._file = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._drain()
        if self._looking_again is not None:
            self._looking_again.cancel()
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        os.close(self._file)

    @contextlib.contextmanager
    def ends(self) -> Iterator[tuple[int, int]]:
        """Write and read end for the VMM to inherit; ours close with the context."""
        writer = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        reader = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield writer, reader
        finally:
            os.close(writer)
            os.close(reader)

    def moved(self, log: Path) -> None:
        """The directory of the log has got another name."""
        self._log, self._older = log, _older(log)
        self.fifo = log.with_suffix(".fifo")

    def tail(self) -> str:
        """The last lines, as evidence in an error."""
        self._drain()
        return tail(self._log)

    def _listen(self) -> None:
        if not self._ended:
            self._loop.add_reader(self._reader, self._look)

    def _look(self) -> None:
        self._loop.remove_reader(self._reader)
        self._pump()
        self._looking_again = self._loop.call_later(PAUSE, self._listen)

    def _drain(self) -> None:
        for _ in range(2 * LIMIT // PIECE):
            if not self._pump():
                return

    def _pump(self) -> bool:
        try:
            piece = os.read(self._reader, PIECE)
        except BlockingIOError:
            return False
        if not piece:  # nobody holds a write end any more; a readable end of file would spin
            self._ended = True
            self._loop.remove_reader(self._reader)
            return False
        if self._seen is not None:
            self._seen(self._log, piece)
        if self._size + len(piece) > LIMIT:
            self._rotate()
        with contextlib.suppress(OSError):  # a full disk must not end the machine
            self._size += os.write(self._file, piece)
        return True

    def _rotate(self) -> None:
        with contextlib.suppress(OSError):
            self._log.replace(self._older)
            fresh = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.close(self._file)
            self._file, self._size = fresh, 0
