"""Segments: positions stay valid, the oldest lines go first, a crash costs one line's end."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.log_files import (
    Entry,
    LogLimits,
    StreamFiles,
    decode,
    encode,
    file_name,
    stream_names,
)

SMALL = LogLimits(stream=1000, segment=100)


def entries(first: int, count: int) -> list[Entry]:
    return [
        Entry(1700000000.0 + number, f"line {number}") for number in range(first, first + count)
    ]


@given(st.text(max_size=400), st.text(max_size=400))
def test_names_of_files_are_one_safe_component_and_differ(one: str, two: str) -> None:
    for name in (one, two):
        encoded = file_name(name)
        assert 0 < len(encoded) <= 200
        assert encoded.isascii()
        assert "/" not in encoded
        assert "\0" not in encoded
        assert not encoded.startswith(".")
    assert (file_name(one) == file_name(two)) == (one == two)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", ".hidden", "a" * 600, "é" * 600])
def test_awkward_names_stay_in_their_directory(name: str, tmp_path: Path) -> None:
    assert (tmp_path / file_name(name)).resolve().parent == tmp_path.resolve()


def test_the_names_of_aws_stay_readable() -> None:
    assert file_name("/aws/lambda-microvms/x") == "%2Faws%2Flambda-microvms%2Fx"
    assert file_name("2026/01/02/[$LATEST]ab") == "2026%2F01%2F02%2F%5B%24LATEST%5Dab"


@given(
    st.integers(0, 10**14),
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])),
)
def test_an_entry_survives_the_disk(milliseconds: int, text: str) -> None:
    entry = Entry(milliseconds / 1000, text)

    assert decode(encode(entry).removesuffix(b"\n")) == entry


@given(st.binary())
def test_any_line_is_an_entry_or_nothing(line: bytes) -> None:
    decode(line)


def test_pages_follow_each_other(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "s", LogLimits())
    files.write(entries(0, 5))

    first = files.read(0, 3)
    second = files.read(first.next, 3)
    assert first.entries + second.entries == tuple(entries(0, 5))
    assert files.read(second.next, 3) == type(second)((), second.next)

    files.write(entries(5, 1))
    assert files.read(second.next, 3).entries == tuple(entries(5, 1))


def test_pages_go_across_segments(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "s", SMALL)
    files.write(entries(0, 20))

    assert len(list((tmp_path / "s").iterdir())) > 1
    seen: list[Entry] = []
    page = files.read(0, 3)
    while page.entries:
        seen += page.entries
        page = files.read(page.next, 3)
    assert seen == entries(0, 20)


def test_a_page_has_a_size(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "s", LogLimits())
    written = [Entry(1.0, "x" * 1000) for _ in range(10)]
    files.write(written)
    page = files.read(0, 100, 2500)
    assert len(page.entries) == 3, "the line that goes beyond is its last"
    assert files.read(page.next, 100, 1 << 20).entries == tuple(written[3:])


def test_the_end_is_where_the_last_page_ends(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "s", SMALL)
    assert files.end() == 0
    for first in range(0, 60, 10):
        files.write(entries(first, 10))
        page = files.read(0, 1000)
        assert page.next == files.end()


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_oldest_lines_are_dropped_and_it_is_said(batch: int, tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "s", SMALL)
    for first in range(0, 500, batch):
        files.write(entries(first, min(batch, 500 - first)))

    assert sum(path.stat().st_size for path in (tmp_path / "s").iterdir()) <= SMALL.stream
    page = files.read(0, 1000)
    assert page.entries[0].text == "[older lines were dropped]"
    kept = page.entries[1:]
    assert len(kept) > 20
    assert list(kept) == entries(500 - len(kept), len(kept))


def test_a_line_larger_than_a_segment_is_kept(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "s", SMALL)
    long = Entry(1.0, "x" * 300)
    files.write([*entries(0, 1), long, *entries(1, 1)])

    assert files.read(0, 10).entries == (*entries(0, 1), long, *entries(1, 1))


def test_a_line_in_writing_is_not_read(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "s", LogLimits())
    files.write(entries(0, 1))
    (path,) = (tmp_path / "s").iterdir()
    with path.open("ab") as file:
        file.write(b"1700000001000 lin")

    assert files.read(0, 10).entries == tuple(entries(0, 1))


@given(st.integers(0, 21))
def test_a_crash_in_a_line_costs_no_other_line(cut: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = StreamFiles(Path(name), "s", LogLimits())
        files.write(entries(0, 2))
        (path,) = (Path(name) / "s").iterdir()
        with path.open("rb+") as file:
            file.truncate(path.stat().st_size - cut)
        files.repair()
        files.write(entries(2, 1))

        found = files.read(0, 10).entries
        assert found[0] == entries(0, 1)[0]
        assert found[-1] == entries(2, 1)[0]
        assert len(found) <= 3


def test_an_unknown_stream_is_empty(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "none", LogLimits())
    files.repair()

    assert files.read(0, 10).entries == ()


@pytest.mark.parametrize("position", [3, 10**9])
def test_a_position_that_no_page_named_is_harmless(position: int, tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "s", LogLimits())
    files.write(entries(0, 2))

    assert entries(1, 1)[0] in files.read(position, 10).entries or position > 100


STREAMS = ["", ".", "%", "~", "a/b", "2026/01/02[1.0]microvm-1", "é" * 300, "x" * 512]


def test_streams_are_listed_by_their_own_names(tmp_path: Path) -> None:
    assert stream_names(tmp_path / "none") == []
    for stream in STREAMS:
        StreamFiles(tmp_path, stream, LogLimits()).write(entries(0, 1))
    assert stream_names(tmp_path) == sorted(STREAMS)
    for stream in STREAMS:
        assert StreamFiles(tmp_path, stream, LogLimits()).read(0, 10).entries
