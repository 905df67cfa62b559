"""Sparse files: which parts of one hold data.

Memory and disks of a guest are mostly holes and zeros. Whoever reads one for a digest or to encrypt
it reads what is allocated only, in blocks, so that the result does not depend on where a copy
happens to have holes. All functions here block.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

BLOCK = 64 << 10
ZERO_BLOCK = bytes(BLOCK)


def blocks(fd: int) -> Iterator[tuple[int, bytes]]:
    """Offset and content of every block that is not zero; only the last may be short."""
    size = os.fstat(fd).st_size
    for begin, end in extents(fd, size):
        for offset in range(begin - begin % BLOCK, end, BLOCK):
            block = os.pread(fd, BLOCK, offset)
            if block != ZERO_BLOCK[: len(block)]:
                yield offset, block


class Abandoned(Exception):
    """The caller gave up meanwhile."""


def digest(path: Path, given_up: Callable[[], bool] = lambda: False) -> str:
    """SHA-256 over the size and all blocks that are not zero, each with its number.

    Reads only what is allocated, and does not depend on where a copy happens to have holes. Raises
    Abandoned when `given_up` says so.
    """
    result = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        result.update(os.fstat(file.fileno()).st_size.to_bytes(8, "little"))
        for offset, block in blocks(file.fileno()):
            if given_up():
                raise Abandoned
            result.update(offset.to_bytes(8, "little"))
            result.update(block)
    return result.hexdigest()


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Allocated parts, cut so that no block of BLOCK bytes is in two of them."""
    position = 0
    while position < size:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        begin = max(begin - begin % BLOCK, position)
        end = min(end + -end % BLOCK, size)
        yield begin, end
        position = end
