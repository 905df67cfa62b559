"""Turns the raw output of a build into bounded, printable log lines.

Output of a Dockerfile is hostile: no line end for gigabytes, terminal control sequences, bytes that
are no text, lines without end. A log line is at most LINE_LIMIT characters of printable text, a log
at most LOG_LIMIT bytes that come at a bounded rate; what is over is counted and said.

So is the work: a line that is not kept is counted with all that came with it, and not looked at. A
flood of line ends would else take the event loop of the node for itself.
"""

import codecs
import re
import time
from collections.abc import Callable, Iterator

LINE_LIMIT = 4096
LOG_LIMIT = 16 << 20
LINES_PER_SECOND = 1000
BURST_SECONDS = 10
"""A build that was silent may print at once what it could have printed in this time."""
LINE_COST = 64
"""Bytes that a line costs beside its text."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]{0,16}[ -/]{0,4}[@-~]|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ENDS = re.compile(r"\r\n|\n|\r")


class Meter:
    """Decides which lines of one hostile source are kept. ``clock`` gives seconds."""

    def __init__(
        self,
        limit: int = LOG_LIMIT,
        rate: int = LINES_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = limit
        self._rate = rate
        self._clock = clock
        self._credit = float(rate * BURST_SECONDS)
        self._seen = clock()
        self._dropped = 0

    def admit(self, line: str) -> Iterator[str]:
        """What goes into the log now: the line, nothing, or what was dropped before it."""
        if not self.takes():
            self.drop(1)
            return
        self._credit -= 1
        yield from self.dropped()
        yield line
        self._left -= len(line) + LINE_COST
        if self._left <= 0:
            yield "[the log is full; what follows is not kept]"

    def takes(self) -> bool:
        """Whether a line that comes now would be kept."""
        if self._left <= 0:
            return False
        now = self._clock()
        earned = (now - self._seen) * self._rate
        self._credit = min(self._credit + earned, self._rate * BURST_SECONDS)
        self._seen = now
        # Once lines were dropped, half a second of them comes back at a time, or every other line
        # of a flood would say how many are missing.
        wanted = max(1.0, self._rate / 2) if self._dropped else 1.0
        return self._credit >= wanted

    def drop(self, count: int) -> None:
        """So many lines came that are not kept."""
        self._dropped += count

    def pass_over(self) -> None:
        """A line came that has nothing to keep. It was work, so it counts for the rate."""
        self._credit -= 1

    def dropped(self) -> Iterator[str]:
        """Say how much is missing, if anything is."""
        if self._dropped and self._left > 0:
            yield f"[{self._dropped} lines are not kept: over {self._rate} in a second]"
            self._dropped = 0


class LineLog:
    """Feed it bytes, it calls ``log`` once for each line. Close it for the last, unended line."""

    def __init__(self, log: Callable[[str], None], meter: Meter | None = None) -> None:
        self._log = log
        self._meter = meter or Meter()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the output."""
        text = self._pending + self._decoder.decode(piece)
        start = 0
        for end in _ENDS.finditer(text):
            if not self._meter.takes():
                self._meter.drop(_ends_in(text, start))
                start = max(text.rfind("\n"), text.rfind("\r")) + 1
                break
            self._emit(text[start : end.start()])
            start = end.end()
        while len(text) - start > LINE_LIMIT:
            if not self._meter.takes():
                over = (len(text) - start - 1) // LINE_LIMIT
                self._meter.drop(over)
                start += over * LINE_LIMIT
                break
            self._emit(text[start : start + LINE_LIMIT])
            start += LINE_LIMIT
        self._pending = text[start:]

    def close(self) -> None:
        """Log what came without a line end."""
        if self._pending:
            self._emit(self._pending)
            self._pending = ""
        for notice in self._meter.dropped():
            self._log(notice)

    def _emit(self, line: str) -> None:
        text = _CONTROLS.sub("", _ESCAPES.sub("", line)).rstrip()
        if not text:
            self._meter.pass_over()
        for start in range(0, len(text), LINE_LIMIT):
            for kept in self._meter.admit(text[start : start + LINE_LIMIT]):
                self._log(kept)


def _ends_in(text: str, start: int) -> int:
    """How many lines end in the text from there on."""
    returns = text.count("\r", start) - text.count("\r\n", start)
    return text.count("\n", start) + returns
