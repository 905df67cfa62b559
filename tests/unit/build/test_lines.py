"""Build output becomes bounded, printable lines, whatever its pieces are."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.build.lines import BURST_SECONDS, LINE_COST, LINE_LIMIT, LineLog, Meter


def lines_of(*pieces: bytes, limit: int = 1 << 20) -> list[str]:
    lines: list[str] = []
    log = LineLog(lines.append, Meter(limit, rate=1 << 20))
    for piece in pieces:
        log.feed(piece)
    log.close()
    return lines


def test_pieces_become_lines() -> None:
    assert lines_of(b"on", b"e\ntw", b"o\r", b"\nthree\rfour") == ["one", "two", "three", "four"]


def test_a_character_cut_in_two_is_whole() -> None:
    assert lines_of("ä".encode()[:1], "ä".encode()[1:]) == ["ä"]


def test_terminal_control_is_taken_out() -> None:
    assert lines_of(b"\x1b[1;31mred\x1b[0m\x07 \x1b]0;title\n\xff\n") == ["red 0;title", "\ufffd"]


def test_a_log_has_an_end() -> None:
    assert lines_of(b"12345\n" * 9, limit=12 + LINE_COST) == [
        "12345",
        "12345",
        "[the log is full; what follows is not kept]",
    ]


def test_lines_that_come_too_fast_are_counted_and_said() -> None:
    now = 0.0
    meter = Meter(rate=1, clock=lambda: now)
    kept = [line for number in range(100) for line in meter.admit(str(number))]
    assert kept == [str(number) for number in range(BURST_SECONDS)]
    now = 1.0
    assert list(meter.admit("next")) == ["[90 lines are not kept: over 1 in a second]", "next"]
    assert list(meter.admit("lost")) == []
    assert list(meter.dropped()) == ["[1 lines are not kept: over 1 in a second]"]
    assert list(meter.dropped()) == []


def test_a_flood_of_tiny_lines_is_bounded_in_number() -> None:
    """Not in bytes alone: a line costs far more memory than the character in it."""
    lines: list[str] = []
    now = 0.0
    log = LineLog(lines.append, Meter(rate=1000, clock=lambda: now))
    for _ in range(20):
        log.feed(b"a\n" * 5000)
        now += 0.01
    log.close()
    # The burst and what was earned in it; what is earned after it does not come line by line.
    assert len(lines) == 1000 * BURST_SECONDS + 20 + 1
    assert lines[-1] == "[89980 lines are not kept: over 1000 in a second]"


class Asked(Meter):
    """Counts the lines that were looked at."""

    count = 0

    def admit(self, line: str) -> Iterator[str]:
        self.count += 1
        return super().admit(line)

    def pass_over(self) -> None:
        self.count += 1
        super().pass_over()


@pytest.mark.parametrize("text", [b"\n", b"a\n", b"\r", b"\r\n", b"\x1b[0m", b"x"])
@pytest.mark.parametrize("full", [False, True])
def test_what_is_not_kept_is_not_looked_at(text: bytes, full: bool) -> None:
    """Of a megabyte at once: line ends, escapes, and a line without an end."""
    lines: list[str] = []
    meter = Asked(limit=0 if full else 1 << 30, rate=10, clock=lambda: 0.0)
    log = LineLog(lines.append, meter)
    for _ in range(16):
        log.feed(text * (65536 // len(text)))
        assert len(log._pending) <= LINE_LIMIT
    # The last line is one without an end, which is looked at when the log is closed.
    assert meter.count == (0 if full else 10 * BURST_SECONDS)
    log.close()
    assert len(lines) <= 10 * BURST_SECONDS + 1


def test_one_line_without_end_takes_no_memory() -> None:
    lines: list[str] = []
    log = LineLog(lines.append)
    for _ in range(1024):
        log.feed(b"a" * (1 << 16))
        assert len(log._pending) <= LINE_LIMIT
    assert sum(map(len, lines)) < 17 << 20


@given(st.lists(st.binary(max_size=9000), max_size=8))
def test_every_line_is_bounded_and_printable(pieces: list[bytes]) -> None:
    for line in lines_of(*pieces):
        assert 0 < len(line) <= LINE_LIMIT
        assert not any(ord(char) < 32 and char != "\t" for char in line)


@given(st.text(alphabet="ab\n", max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_where_pieces_are_cut_makes_no_difference(text: str, cuts: list[int]) -> None:
    data = text.encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert lines_of(*pieces) == lines_of(data)
