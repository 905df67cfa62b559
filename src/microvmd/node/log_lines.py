"""From the bytes that an application prints to lines, and from lines to what a terminal may show.

Pure: no clock and no file. Bytes come from a guest and may be anything.
"""

import re
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterable

LINE_LIMIT = 64 * 1024
"""Bytes of one line; a longer one becomes several."""

# C0 but tab, DEL, C1, and the characters that reorder or hide what stands beside them.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class LineSplitter:
    """Cuts one stream of bytes into lines. The lines depend on the bytes, not on how they came.

    A line ends with LF or CR LF. What is not UTF-8 is replaced by U+FFFD.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        if limit < 4:
            raise ValueError("a line must have room for one character")
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        self._rest += data
        lines = []
        start = 0
        while True:
            # A line of exactly the limit is whole when its LF is the next byte.
            end = self._rest.find(b"\n", start, start + self._limit + 1)
            if end >= 0:
                lines.append(_decode(self._rest[start:end].removesuffix(b"\r")))
                start = end + 1
            elif len(self._rest) - start > self._limit:
                end = start + _whole(self._rest[start : start + self._limit])
                lines.append(_decode(self._rest[start:end]))
                start = end
            else:
                del self._rest[:start]
                return lines

    def end(self) -> list[str]:
        """What came after the last line end, when nothing more will come."""
        rest, self._rest = self._rest, bytearray()
        return [_decode(rest)] if rest else []


async def lines_of(chunks: AsyncIterable[tuple[int, bytes]]) -> AsyncGenerator[list[str], None]:
    """Whole lines of several streams, as their bytes come, each stream cut for itself."""
    splitters: defaultdict[int, LineSplitter] = defaultdict(LineSplitter)
    async for stream, data in chunks:
        yield splitters[stream].feed(data)
    for splitter in splitters.values():
        yield splitter.end()


def _decode(line: bytearray) -> str:
    return line.decode(errors="replace")


def _whole(piece: bytearray) -> int:
    """Length of the piece without a character that its end cuts in two."""
    for back in range(1, 4):
        byte = piece[-back]
        if byte & 0xC0 == 0x80:
            continue
        wanted = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return len(piece) - back if wanted > back else len(piece)
    return len(piece)


def printable(line: str) -> str:
    r"""The line without what a terminal would obey; such characters are written as \x1b, \u202e."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), line)
