"""Lines depend on the bytes alone, lose nothing, and cannot drive a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.log_lines import LineSplitter, printable

BYTES = st.lists(st.sampled_from([b"\n", b"\r", b"a", b"bc", b"\xff", "é".encode(), "😀".encode()]))


def split(pieces: list[bytes], limit: int = 8) -> list[str]:
    splitter = LineSplitter(limit)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.end()


@given(BYTES.map(b"".join), st.data())
def test_how_the_bytes_come_makes_no_difference(data: bytes, draw: st.DataObject) -> None:
    pieces = []
    rest = data
    while rest:
        size = draw.draw(st.integers(1, len(rest)))
        pieces.append(rest[:size])
        rest = rest[size:]

    assert split(pieces) == split([data])


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))))
def test_lines_within_the_limit_come_back_whole(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()

    assert split([data], limit=64 * 1024) == lines


@given(st.text(st.sampled_from("aé€😀"), max_size=60), st.integers(4, 16))
def test_long_lines_are_cut_between_characters(line: str, limit: int) -> None:
    pieces = split([line.encode()], limit)

    assert "".join(pieces) == line
    assert all(len(piece.encode()) <= limit for piece in pieces)


@given(st.binary(max_size=200), st.integers(4, 16))
def test_no_line_exceeds_the_limit_or_holds_a_line_end(data: bytes, limit: int) -> None:
    for line in split([data], limit):
        assert "\n" not in line
        assert len(line) <= limit


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\n", ["one", "two"]),
        (b"12345678\n", ["12345678"]),
        (b"123456789\n", ["12345678", "9"]),
        (b"\xff\n", ["\ufffd"]),
    ],
)
def test_examples(data: bytes, lines: list[str]) -> None:
    assert split([data]) == lines


def test_a_limit_without_room_for_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match="room"):
        LineSplitter(3)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain\ttext é 😀", "plain\ttext é 😀"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m\x7f\r", "\\x9b31m\\x7f\\r"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
    ],
)
def test_control_characters_are_written_out(line: str, shown: str) -> None:
    assert printable(line) == shown


@given(st.text())
def test_nothing_printable_moves_a_terminal(line: str) -> None:
    shown = printable(line)

    assert all(character == "\t" or ord(character) >= 0x20 for character in shown)
    assert not any(0x7F <= ord(character) <= 0x9F for character in shown)
