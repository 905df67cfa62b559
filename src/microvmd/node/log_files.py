"""One log stream on disk: segments of lines, the oldest of which are dropped.

A position is the number of bytes written to the stream before it, ever; a segment's file is named
by the position of its first byte, so that positions stay valid when older segments go. A line is
`<milliseconds since the epoch> <text>\\n`. Nothing is synced: what a crash cuts off is one line's
end, and the next start ends that line.

Everything here blocks and is called in threads; one thread at a time writes.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, unquote

_NAME_LIMIT = 200
_NAME_FILE = "name"
_SUFFIX = ".log"
_READ_SIZE = 256 * 1024
PAGE_SIZE = 1 << 20
"""Bytes of a page, about: the line that goes beyond is its last."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bytes that a stream may keep, and bytes per file; a file's worth is dropped at a time."""

    stream: int = 32 << 20
    segment: int = 4 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One line; `time` in seconds since the epoch, with milliseconds."""

    time: float
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """Lines in order, and the position behind the last of them."""

    entries: tuple[Entry, ...]
    next: int


def file_name(name: str) -> str:
    """A name of one path component for any text, different for different texts.

    Names of groups and streams hold `/`, `[`, `$` and more, and may be longer than a file's.
    """
    encoded = quote(name, safe="").replace("~", "%7E")
    if encoded in {"", ".", ".."} or encoded.startswith("."):
        encoded = f"%2E{encoded[1:]}" if encoded else "%"
    if len(encoded) <= _NAME_LIMIT:
        return encoded
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{encoded[: _NAME_LIMIT - 65]}~{digest}"


def stream_names(group: Path) -> list[str]:
    """The streams in a group's directory, in order of their names; none where there is no group."""
    return sorted(name for path in _listed(group) if (name := _stream_name(path)) is not None)


def _stream_name(directory: Path) -> str | None:
    """None where a crash came between the making of the directory and its name: it is empty."""
    encoded = directory.name
    if "~" not in encoded:
        return "" if encoded == "%" else unquote(encoded)
    try:
        return (directory / _NAME_FILE).read_text()
    except FileNotFoundError:
        return None


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def encode(entry: Entry) -> bytes:
    text = entry.text.encode(errors="replace").replace(b"\n", b" ")
    return b"%d %b\n" % (round(entry.time * 1000), text)


def decode(line: bytes) -> Entry | None:
    """The entry of a line without its end; None for what a crash or another hand left."""
    number, space, text = line.partition(b" ")
    if not space or not number.isdigit() or len(number) > 15:
        return None
    return Entry(int(number) / 1000, text.decode(errors="replace"))


class StreamFiles:
    """The segments of one stream."""

    def __init__(self, group: Path, stream: str, limits: LogLimits) -> None:
        self._stream = stream
        self._directory = group / file_name(stream)
        self._limits = limits

    def repair(self) -> None:
        """End the line that a crash cut off, so that the next one does not continue it."""
        segments = self._segments()
        if not segments:
            return
        with segments[-1][1].open("rb+") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")

    def write(self, entries: Iterable[Entry]) -> None:
        """Add lines and drop the oldest segments that are too much."""
        self._make_directory()
        segments = self._segments()
        start, path = segments[-1] if segments else (0, self._path(0))
        size = path.stat().st_size if segments else 0
        lines = [encode(entry) for entry in entries]
        while lines:
            if size >= self._limits.segment:
                start, size = start + size, 0
                path = self._path(start)
            count, taken = _fitting(lines, self._limits.segment - size)
            with path.open("ab") as file:
                file.write(b"".join(lines[:count]))
            size += taken
            del lines[:count]
        self._drop(start + size)

    def end(self) -> int:
        """The position behind the last line."""
        segments = self._segments()
        if not segments:
            return 0
        start, path = segments[-1]
        return start + path.stat().st_size

    def read(self, position: int, limit: int, size: int = PAGE_SIZE) -> Page:
        """Up to `limit` lines from a position on that a page named, or from 0.

        No line follows when the page has `size` bytes. If lines were dropped there, the first entry
        says so.
        """
        entries: list[Entry] = []
        begin = position
        for start, path in self._segments():
            if position < start:  # dropped before, or while we read
                entries.append(_mark(path))
                begin = begin - position + start
                position = start
            for line in _lines(path, position - start):
                if len(entries) >= limit or position - begin >= size:
                    return Page(tuple(entries), position)
                position += len(line) + 1
                entry = decode(line)
                if entry is not None:
                    entries.append(entry)
        return Page(tuple(entries), position)

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if "~" in self._directory.name and not (self._directory / _NAME_FILE).exists():
            (self._directory / _NAME_FILE).write_text(self._stream)

    def _path(self, start: int) -> Path:
        return self._directory / f"{start:020d}{_SUFFIX}"

    def _segments(self) -> list[tuple[int, Path]]:
        return sorted(
            (int(path.stem), path)
            for path in _listed(self._directory)
            if path.suffix == _SUFFIX and path.stem.isdigit()
        )

    def _drop(self, end: int) -> None:
        segments = self._segments()
        for (_, path), (following, _) in pairwise(segments):
            if end - following < self._limits.stream - self._limits.segment:
                return
            path.unlink()


def _mark(following: Path) -> Entry:
    """What is read in place of lines that are gone, with the time of the line after them."""
    line = next(_lines(following, 0), None)
    entry = decode(line) if line is not None else None
    return Entry(entry.time if entry else 0.0, "[older lines were dropped]")


def _fitting(lines: list[bytes], room: int) -> tuple[int, int]:
    """How many lines, at least one, fit into `room` bytes, and their size."""
    taken = len(lines[0])
    for count, line in enumerate(lines[1:], 1):
        if taken + len(line) > room:
            return count, taken
        taken += len(line)
    return len(lines), taken


def _lines(path: Path, offset: int) -> Iterator[bytes]:
    """Whole lines of a file without their ends; what is still being written is left out."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        rest = b""
        while piece := file.read(_READ_SIZE):
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
