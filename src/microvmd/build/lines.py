"""Turns the raw output of a build into bounded, printable log lines.

Output of a Dockerfile is hostile: no line end for gigabytes, terminal control sequences, bytes that
are no text. A log line is at most LINE_LIMIT characters of printable text, a log at most
LOG_LIMIT bytes; what is over is counted and said.
"""

import codecs
import re
from collections.abc import Callable

LINE_LIMIT = 4096
LOG_LIMIT = 16 << 20
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]{0,16}[ -/]{0,4}[@-~]|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ENDS = re.compile(r"\r\n|\n|\r")


class LineLog:
    """Feed it bytes, it calls ``log`` once for each line. Close it for the last, unended line."""

    def __init__(self, log: Callable[[str], None], limit: int = LOG_LIMIT) -> None:
        self._log = log
        self._left = limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the output."""
        *lines, self._pending = _ENDS.split(self._pending + self._decoder.decode(piece))
        for line in lines:
            self._emit(line)
        while len(self._pending) > LINE_LIMIT:
            self._emit(self._pending[:LINE_LIMIT])
            self._pending = self._pending[LINE_LIMIT:]

    def close(self) -> None:
        """Log what came without a line end."""
        if self._pending:
            self._emit(self._pending)
            self._pending = ""

    def _emit(self, line: str) -> None:
        text = _CONTROLS.sub("", _ESCAPES.sub("", line)).rstrip()
        if not text or self._left <= 0:
            return
        for start in range(0, len(text), LINE_LIMIT):
            self._log(text[start : start + LINE_LIMIT])
        self._left -= len(text) + 1
        if self._left <= 0:
            self._log("[the log is full; what follows is not kept]")
