"""Guest memory from outside: which pages a clone made its own, and moving them to and from a file.

A clone maps the image's memory file copy-on-write, so the pages it wrote are exactly the private
ones of that mapping. `dump` writes them to a diff file while the vCPUs stand still; `load` puts
them into a fresh clone before its device state is restored. Every diff is against the image's
memory file, never against an earlier diff, so there is one file however often a MicroVM was
suspended.

Diff file: the contents of all data pages in address order, then the table of runs (first page,
number of pages, zero or not), then a footer; written front to back, so that its digest is made on
the way. Zero pages have no contents, only a run: freed guest memory is often zero, and where the
image's page is not, it has to be zeroed again at the restore.

All functions here block; callers run them in a thread. Reading another process's memory needs
CAP_SYS_PTRACE, which the node has and a jailed VMM has not.
"""

import array
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
MAGIC = b"MVMDIFF1"
FOOTER = struct.Struct("<QQ8s")  # memory bytes, number of runs, magic
RUN = struct.Struct("<QII")  # first page, pages, 1 when zero
CHUNK_PAGES = 1024
"""Pages copied at once: the kernel takes at most 1024 pieces (IOV_MAX) per call."""
ZERO_PAGE = bytes(PAGE)

# include/uapi/linux/fs.h, Linux 6.7
PAGEMAP_SCAN = 0xC0606610
PM_SCAN_ARG = struct.Struct("<12Q")
PAGE_IS_FILE, PAGE_IS_PRESENT, PAGE_IS_SWAPPED = 1 << 2, 1 << 3, 1 << 4
REGIONS = 4096

# Documentation/admin-guide/mm/pagemap.rst
PM_PRESENT, PM_SWAP, PM_FILE = 1 << 63, 1 << 62, 1 << 61

Run = tuple[int, int]
"""First page and number of pages, relative to the start of guest memory."""


class MemoryDumpAborted(Exception):
    """The caller gave up while pages were being copied."""


class DiffBroken(Exception):
    """A diff file is not whole or belongs to another memory size."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """Guest memory in the address space of a VMM: one part, or several in the order of the file.

    Firecracker maps the memory above 3.25 GiB apart, as its guest sees it.
    """

    pid: int
    start: int
    length: int
    further: tuple[tuple[int, int], ...] = ()
    """Start and length of each further part."""

    @property
    def size(self) -> int:
        return self.length + sum(length for _, length in self.further)

    def parts(self) -> Iterator[tuple[int, "Mapping"]]:
        """Each part, and the number of its first page."""
        first = 0
        for start, length in ((self.start, self.length), *self.further):
            yield first, Mapping(self.pid, start, length)
            first += length // PAGE

    def places(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Address and bytes of each piece of these pages."""
        for base, part in self.parts():
            begin, end = max(first - base, 0), min(first + count - base, part.length // PAGE)
            if begin < end:
                yield part.start + begin * PAGE, (end - begin) * PAGE


@dataclass(frozen=True, slots=True)
class DumpResult:
    file_bytes: int
    data_pages: int
    zero_pages: int
    sha256: str


def find_mapping(pid: int, memory_file: Path) -> Mapping:
    """Find the mapping by device and inode: a jailed VMM knows the file by another path."""
    stat = memory_file.stat()
    by_inode: list[tuple[str, int, int, int]] = []
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        span, _, offset, device, inode = line.split(maxsplit=5)[:5]
        if int(inode) == stat.st_ino:
            start, end = (int(part, 16) for part in span.split("-"))
            by_inode.append((device, int(offset, 16), start, end - start))
    device = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}"
    exact = [found for found in by_inode if found[0] == device]
    # btrfs shows a device number in maps that stat does not know; the size tells as well.
    parts = sorted(part[1:] for part in exact or by_inode)
    reached = 0
    for position, _, length in parts:
        reached = reached + length if position == reached else -1
    if not parts or reached != stat.st_size:
        raise ProcessLookupError(f"process {pid} does not map {memory_file}")
    (_, start, length), *further = parts
    return Mapping(pid, start, length, tuple((start, length) for _, start, length in further))


def find_anonymous(pid: int, size: int) -> Mapping | None:
    """The one anonymous mapping of just this size, where there is exactly one."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        span, rights, _, _, inode, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        if end - start == size and rights == "rw-p" and inode == "0" and not name:
            found.append(Mapping(pid, start, size))
    return found[0] if len(found) == 1 else None


def private_runs(mapping: Mapping) -> list[Run]:
    """Runs of pages that the VMM changed, by PAGEMAP_SCAN or, before Linux 6.7, by reading all."""
    return [(base + first, count) for base, part in mapping.parts() for first, count in _runs(part)]


def _runs(mapping: Mapping) -> list[Run]:
    with open(f"/proc/{mapping.pid}/pagemap", "rb", buffering=0) as pagemap:
        try:
            return list(_scan_runs(pagemap.fileno(), mapping))
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
        return list(_pagemap_runs(pagemap.fileno(), mapping))


def _scan_runs(pagemap: int, mapping: Mapping) -> Iterator[Run]:
    """Pages that are (present or swapped) and not of the file."""
    regions = array.array("Q", bytes(24 * REGIONS))
    address, _ = regions.buffer_info()
    end = mapping.start + mapping.length
    position = mapping.start
    first, count = 0, 0
    while position < end:
        arg = bytearray(
            PM_SCAN_ARG.pack(
                PM_SCAN_ARG.size,
                0,
                position,
                end,
                0,
                address,
                REGIONS,
                0,
                PAGE_IS_FILE,
                PAGE_IS_FILE,
                PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                PAGE_IS_PRESENT,
            )
        )
        filled = fcntl.ioctl(pagemap, PAGEMAP_SCAN, arg)
        # Only a full vector ends a scan early. `walk_end` does not tell: with more than 512 runs
        # Linux 6.18 leaves there where its own buffer of 512 was full, although it went on, and
        # who starts again from there gets the later runs twice.
        position = regions[3 * filled - 2] if filled == REGIONS else end
        for index in range(0, 3 * filled, 3):
            begin = (regions[index] - mapping.start) // PAGE
            length = (regions[index + 1] - regions[index]) // PAGE
            if count and begin == first + count:
                count += length
                continue
            if count:
                yield first, count
            first, count = begin, length
    if count:
        yield first, count


def _pagemap_runs(pagemap: int, mapping: Mapping) -> Iterator[Run]:
    """The same from /proc/PID/pagemap, 8 bytes a page; pieces without any page are skipped."""
    piece_pages = 32768
    empty = bytes(8 * piece_pages)
    total = mapping.length // PAGE
    first, count = 0, 0
    for begin in range(0, total, piece_pages):
        wanted = min(piece_pages, total - begin)
        raw = os.pread(pagemap, 8 * wanted, (mapping.start // PAGE + begin) * 8)
        if raw == empty[: len(raw)]:
            continue
        entries = array.array("Q")
        entries.frombytes(raw)
        for index, entry in enumerate(entries, begin):
            if entry & (PM_PRESENT | PM_SWAP) and not (entry & PM_PRESENT and entry & PM_FILE):
                if count and index == first + count:
                    count += 1
                    continue
                if count:
                    yield first, count
                first, count = index, 1
    if count:
        yield first, count


def _chunks(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Cut runs into groups of at most CHUNK_PAGES pages, so of at most as many pieces."""
    group: list[Run] = []
    room = CHUNK_PAGES
    for first, count in runs:
        while count:
            taken = min(count, room)
            group.append((first, taken))
            first, count, room = first + taken, count - taken, room - taken
            if not room:
                yield group
                group, room = [], CHUNK_PAGES
    if group:
        yield group


_libc = ctypes.CDLL(None, use_errno=True)


def _move(name: str, mapping: Mapping, group: Sequence[Run], local: int) -> None:
    """process_vm_readv or process_vm_writev between `local` memory and the pages of `group`."""
    size = sum(count for _, count in group) * PAGE
    here = array.array("Q", (local, size))
    there = array.array("Q")
    for first, count in group:
        for place in mapping.places(first, count):
            there.extend(place)
    moved = getattr(_libc, name)(
        ctypes.c_int(mapping.pid),
        ctypes.c_void_p(here.buffer_info()[0]),
        ctypes.c_ulong(1),
        ctypes.c_void_p(there.buffer_info()[0]),
        ctypes.c_ulong(len(there) // 2),
        ctypes.c_ulong(0),
    )
    if moved != size:
        code = ctypes.get_errno() if moved < 0 else errno.EFAULT
        raise OSError(code, f"{name}: {os.strerror(code)} after {moved} of {size} bytes")


def dump(
    mapping: Mapping, target: int, *, aborted: Callable[[], bool] = lambda: False
) -> DumpResult:
    """Write the private pages to the file `target` and sync it. vCPUs must stand still."""
    table = _TableBuilder()
    digest = hashlib.sha256()
    offset = 0
    with _Buffer() as buffer:
        for group in _chunks(private_runs(mapping)):
            if aborted():
                raise MemoryDumpAborted
            _move("process_vm_readv", mapping, group, buffer.address)
            for piece in buffer.data_pieces(group, table):
                _write_all(target, piece, offset)
                digest.update(piece)
                offset += len(piece)
                piece.release()
    runs = table.runs()
    tail = encode_table(DiffTable(mapping.size, runs))
    _write_all(target, memoryview(tail), offset)
    digest.update(tail)
    os.ftruncate(target, offset + len(tail))
    os.fsync(target)
    return DumpResult(
        file_bytes=offset + len(tail),
        data_pages=offset // PAGE,
        zero_pages=sum(run.count for run in runs if run.zero),
        sha256=digest.hexdigest(),
    )


def write_out(
    mapping: Mapping, target: int, *, aborted: Callable[[], bool] = lambda: False
) -> None:
    """Write anonymous memory into the sparse file `target` and sync it: only what is not zero.

    vCPUs must stand still, and the file must be of the memory's size and read as zeros.
    """
    with _Buffer() as buffer:
        for group in _chunks(private_runs(mapping)):
            if aborted():
                raise MemoryDumpAborted
            _move("process_vm_readv", mapping, group, buffer.address)
            for offset, piece in buffer.placed(group):
                _write_all(target, piece, offset)
                piece.release()
    os.fsync(target)


def load(mapping: Mapping, source: int) -> None:
    """Put the pages of a diff file into a clone whose device state is not restored yet."""
    size = os.fstat(source).st_size
    if size < FOOTER.size:
        raise DiffBroken("too short for a diff file")
    # Private and writable only so that ctypes hands out its address; nothing is written to it.
    with mmap.mmap(source, size, access=mmap.ACCESS_COPY) as content, _Buffer() as zeros:
        table = decode_table(content)
        if table.memory_bytes != mapping.size:
            raise DiffBroken(f"for {table.memory_bytes} bytes of memory, not {mapping.size}")
        for group in _chunks([(run.first, run.count) for run in table.runs if run.zero]):
            _move("process_vm_writev", mapping, group, zeros.address)
        anchor = ctypes.c_char.from_buffer(content)
        try:
            position = ctypes.addressof(anchor)
            for group in _chunks([(run.first, run.count) for run in table.runs if not run.zero]):
                _move("process_vm_writev", mapping, group, position)
                position += sum(count for _, count in group) * PAGE
        finally:
            del anchor


@dataclass(frozen=True, slots=True)
class DiffRun:
    """Consecutive pages of a diff file, all with contents or all zero."""

    first: int
    count: int
    zero: bool


@dataclass(frozen=True, slots=True)
class DiffTable:
    memory_bytes: int
    runs: tuple[DiffRun, ...]


def encode_table(table: DiffTable) -> bytes:
    runs = b"".join(RUN.pack(run.first, run.count, run.zero) for run in table.runs)
    return runs + FOOTER.pack(table.memory_bytes, len(table.runs), MAGIC)


def decode_table(content: mmap.mmap | bytes) -> DiffTable:
    """The table at the end of a diff file. Raises DiffBroken unless it fits the file exactly."""
    size = len(content)
    if size < FOOTER.size:
        raise DiffBroken("too short for a diff file")
    memory_bytes, number, magic = FOOTER.unpack(content[size - FOOTER.size :])
    if magic != MAGIC:
        raise DiffBroken("not a diff file, or cut short")
    start = size - FOOTER.size - number * RUN.size
    if start < 0:
        raise DiffBroken("the table is longer than the file")
    runs: list[DiffRun] = []
    data_pages, free_from = 0, 0
    for first, count, zero in RUN.iter_unpack(content[start : size - FOOTER.size]):
        if zero > 1 or not count or first < free_from or (first + count) * PAGE > memory_bytes:
            raise DiffBroken(f"run of {count} pages at page {first} is impossible")
        free_from = first + count
        data_pages += 0 if zero else count
        runs.append(DiffRun(first, count, bool(zero)))
    if data_pages * PAGE != start:
        raise DiffBroken(f"{start} bytes of pages, but the table lists {data_pages} pages")
    return DiffTable(memory_bytes, tuple(runs))


class _TableBuilder:
    """Collects pages in address order into runs."""

    def __init__(self) -> None:
        self._runs: list[DiffRun] = []
        self._first = self._next = 0
        self._zero = False

    def add(self, page: int, zero: bool) -> None:
        if page == self._next and zero == self._zero and self._first < self._next:
            self._next += 1
            return
        self._flush()
        self._first, self._next, self._zero = page, page + 1, zero

    def _flush(self) -> None:
        if self._first < self._next:
            self._runs.append(DiffRun(self._first, self._next - self._first, self._zero))

    def runs(self) -> tuple[DiffRun, ...]:
        self._flush()
        self._first = self._next
        return tuple(self._runs)


class _Buffer:
    """Page-aligned memory with a known address, for the kernel to copy to and from."""

    def __enter__(self) -> "_Buffer":
        self._memory = mmap.mmap(-1, CHUNK_PAGES * PAGE)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._memory)
        self.address = ctypes.addressof(self._anchor)
        self._view = memoryview(self._memory)
        return self

    def __exit__(self, *_: object) -> None:
        self._anchor = None
        self._view.release()
        # After a failed write (disk full) a slice lives on in the traceback. The memory goes with
        # it then; an error here would hide the failure, which is one that can be taken back.
        with suppress(BufferError):
            self._memory.close()

    def data_pieces(self, group: Sequence[Run], table: _TableBuilder) -> Iterator[memoryview]:
        """What is to be written of a group just read, in order; lists its runs in `table`."""
        start = position = 0
        for first, count in group:
            for page in range(first, first + count):
                zero = self._memory[position : position + PAGE] == ZERO_PAGE
                table.add(page, zero)
                if zero:
                    if start < position:
                        yield self._view[start:position]
                    start = position + PAGE
                position += PAGE
        if start < position:
            yield self._view[start:position]

    def placed(self, group: Sequence[Run]) -> Iterator[tuple[int, memoryview]]:
        """Runs of what was just read and is not zero, each with its place in guest memory."""
        position = 0
        for first, count in group:
            begin = 0
            for page in range(count + 1):
                here = position + page * PAGE
                if page < count and self._memory[here : here + PAGE] != ZERO_PAGE:
                    continue
                if begin < page:
                    start = position + begin * PAGE
                    yield (first + begin) * PAGE, self._view[start:here]
                begin = page + 1
            position += count * PAGE


def _write_all(target: int, piece: memoryview, offset: int) -> None:
    while piece:
        written = os.pwrite(target, piece, offset)
        piece = piece[written:]
        offset += written
