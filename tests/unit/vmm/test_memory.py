"""Private pages of a mapping: found, written, put back; and a damaged diff file is refused."""

import ctypes
import errno
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.vmm import memory
from microvmd.vmm.memory import (
    PAGE,
    DiffBroken,
    DiffRun,
    DiffTable,
    Mapping,
    MemoryDumpAborted,
    decode_table,
    dump,
    encode_table,
    find_mapping,
    load,
    private_runs,
)

PAGES = 4096
LARGE = 128 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A memory file whose first half holds data and whose second half is a hole."""
    path = tmp_path / "memory"
    with path.open("wb") as file:
        file.write(random.randbytes(PAGES // 2 * PAGE))
        file.truncate(PAGES * PAGE)
    return path


@pytest.fixture
def clone(image: Path) -> Iterator[mmap.mmap]:
    with _cloned(image) as mapped:
        yield mapped


def _cloned(image: Path) -> mmap.mmap:
    fd = os.open(image, os.O_RDONLY)
    try:
        return mmap.mmap(fd, PAGES * PAGE, flags=mmap.MAP_PRIVATE)
    finally:
        os.close(fd)


def _private(fd: int, length: int) -> mmap.mmap:
    return mmap.mmap(fd, length, flags=mmap.MAP_PRIVATE)


def _mapped(fd: int, length: int, offset: int) -> mmap.mmap:
    return mmap.mmap(fd, length, flags=mmap.MAP_PRIVATE, offset=offset)


def _change(clone: mmap.mmap, pages: list[int]) -> None:
    for page in pages:
        clone[page * PAGE : (page + 1) * PAGE] = random.randbytes(PAGE)


def test_finds_the_changed_pages_only(image: Path, clone: mmap.mmap) -> None:
    mapping = find_mapping(os.getpid(), image)
    assert mapping.length == PAGES * PAGE
    assert clone[0:PAGE] != bytes(PAGE)  # reading makes no page private
    assert private_runs(mapping) == []
    _change(clone, [0, 7, 8, 9, PAGES - 1])
    assert private_runs(mapping) == [(0, 1), (7, 3), (PAGES - 1, 1)]
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        runs = list(memory._pagemap_runs(pagemap.fileno(), mapping))
    assert runs == [(0, 1), (7, 3), (PAGES - 1, 1)]


@pytest.mark.parametrize("number", [1, 511, 512, 513, 537, 1100])
def test_both_ways_agree_on_many_runs(tmp_path: Path, number: int) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, LARGE)
    with path.open("rb") as large_file, _private(large_file.fileno(), LARGE) as large:
        pages = sorted(random.sample(range((LARGE) // PAGE), number))
        for page in pages:
            large[page * PAGE] = 1
        mapping = find_mapping(os.getpid(), path)
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            by_reading = list(memory._pagemap_runs(pagemap.fileno(), mapping))
        assert private_runs(mapping) == by_reading
        assert sum(count for _, count in by_reading) == number


def test_finds_more_runs_than_any_buffer_holds(tmp_path: Path) -> None:
    # 512 is the kernel's own buffer, REGIONS ours.
    for runs in (511, 512, 513, memory.REGIONS, memory.REGIONS + 1, 2 * memory.REGIONS + 7):
        path = tmp_path / f"memory-{runs}"
        path.touch()
        os.truncate(path, 2 * runs * PAGE)
        with path.open("rb") as file, _private(file.fileno(), 2 * runs * PAGE) as mapped:
            for number in range(runs):
                mapped[2 * number * PAGE] = 1
            found = private_runs(find_mapping(os.getpid(), path))
        assert found == [(2 * number, 1) for number in range(runs)]


def test_round_trip(image: Path, clone: mmap.mmap, tmp_path: Path) -> None:
    _change(clone, random.sample(range(PAGES), 1500))
    clone[5 * PAGE : 8 * PAGE] = bytes(3 * PAGE)  # zero where the image is not
    with (tmp_path / "diff").open("w+b") as diff:
        result = dump(find_mapping(os.getpid(), image), diff.fileno())
        assert result.zero_pages >= 3
        assert result.file_bytes == os.fstat(diff.fileno()).st_size
        wanted = clone[:]
        clone.close()
        with _cloned(image) as fresh:
            assert fresh[:] != wanted
            load(find_mapping(os.getpid(), image), diff.fileno())
            assert fresh[:] == wanted


def test_an_empty_diff_is_a_diff(image: Path, clone: mmap.mmap, tmp_path: Path) -> None:
    mapping = find_mapping(os.getpid(), image)
    with (tmp_path / "diff").open("w+b") as diff:
        assert dump(mapping, diff.fileno()).data_pages == 0
        load(mapping, diff.fileno())
    assert private_runs(mapping) == []


def test_can_be_given_up(image: Path, clone: mmap.mmap, tmp_path: Path) -> None:
    _change(clone, [1])
    with (tmp_path / "diff").open("w+b") as diff, pytest.raises(MemoryDumpAborted):
        dump(find_mapping(os.getpid(), image), diff.fileno(), aborted=lambda: True)


def test_a_full_disk_is_told_as_such(image: Path, clone: mmap.mmap) -> None:
    """Whoever suspends takes it back then, so it must not look like another failure."""
    _change(clone, [1, 2, 9])
    full = os.strerror(errno.ENOSPC)
    with open("/dev/full", "wb", buffering=0) as target, pytest.raises(OSError, match=full):
        dump(find_mapping(os.getpid(), image), target.fileno())


def test_refuses_another_memory_size(image: Path, clone: mmap.mmap, tmp_path: Path) -> None:
    mapping = find_mapping(os.getpid(), image)
    with (tmp_path / "diff").open("w+b") as diff:
        dump(mapping, diff.fileno())
        with pytest.raises(DiffBroken, match="bytes of memory"):
            load(Mapping(mapping.pid, mapping.start, mapping.length // 2), diff.fileno())


def test_says_when_a_process_does_not_map_the_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(PAGE))
    with pytest.raises(ProcessLookupError):
        find_mapping(os.getpid(), tmp_path / "other")


@st.composite
def tables(draw: st.DrawFn) -> DiffTable:
    runs: list[DiffRun] = []
    page = 0
    for _ in range(draw(st.integers(0, 8))):
        page += draw(st.integers(0, 5))
        count = draw(st.integers(1, 4))
        runs.append(DiffRun(page, count, draw(st.booleans())))
        page += count
    return DiffTable((page + draw(st.integers(0, 5))) * PAGE, tuple(runs))


@given(tables())
def test_table_round_trip(table: DiffTable) -> None:
    pages = sum(run.count for run in table.runs if not run.zero)
    content = bytes(pages * PAGE) + encode_table(table)
    assert decode_table(content) == table
    with pytest.raises(DiffBroken):
        decode_table(content + b"x")
    with pytest.raises(DiffBroken):
        decode_table(bytes(PAGE) + content)


@given(tables(), st.binary(max_size=64), st.integers(0, 200))
def test_hostile_tables_are_refused_or_harmless(table: DiffTable, noise: bytes, at: int) -> None:
    pages = sum(run.count for run in table.runs if not run.zero)
    content = bytearray(bytes(pages * PAGE) + encode_table(table))
    at = max(len(content) - at, 0)
    content[at : at + len(noise)] = noise
    try:
        found = decode_table(bytes(content))
    except DiffBroken:
        return
    position = 0
    for run in found.runs:
        assert run.first >= position
        position = run.first + run.count
    assert position * PAGE <= found.memory_bytes


def test_anonymous_memory_is_written_without_its_zeros(tmp_path: Path) -> None:
    path, size = tmp_path / "out", 77 * PAGE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
        own[5 * PAGE : 8 * PAGE] = random.randbytes(3 * PAGE)
        own[9 * PAGE : 10 * PAGE] = bytes(PAGE)
        own[-PAGE:] = random.randbytes(PAGE)
        address = ctypes.addressof(anchor := ctypes.c_char.from_buffer(own))
        with path.open("wb") as file:
            file.truncate(size)
            memory.write_out(Mapping(os.getpid(), address, size), file.fileno())
        del anchor
        assert path.read_bytes() == own[:]
    assert path.stat().st_blocks * 512 <= 8 * PAGE


def test_memory_that_is_not_there_is_not_found() -> None:
    assert memory.find_anonymous(os.getpid(), 12347 * PAGE) is None


def test_memory_in_two_parts_is_one(image: Path, tmp_path: Path) -> None:
    half = PAGES // 2 * PAGE
    diff = tmp_path / "diff"
    with image.open("rb") as file, diff.open("w+b") as target:
        fd = file.fileno()
        with _mapped(fd, half, 0), _mapped(fd, half, half) as above:
            above[:PAGE] = changed = bytes([7]) * PAGE
            mapping = find_mapping(os.getpid(), image)
            assert mapping.size == PAGES * PAGE
            assert private_runs(mapping) == [(PAGES // 2, 1)]
            assert dump(mapping, target.fileno()).data_pages == 1
        with _mapped(fd, half, 0), _mapped(fd, half, half) as above:
            load(find_mapping(os.getpid(), image), target.fileno())
            assert above[:PAGE] == changed


def test_a_run_is_cut_where_two_parts_meet() -> None:
    mapping = Mapping(1, 10 * PAGE, 2 * PAGE, ((90 * PAGE, 3 * PAGE),))
    assert list(mapping.places(1, 3)) == [(11 * PAGE, PAGE), (90 * PAGE, 2 * PAGE)]
    assert list(mapping.places(2, 1)) == [(90 * PAGE, PAGE)]
