"""Give back the disk space of zeros in a file of guest memory.

Firecracker writes all of a guest's memory when it makes an image snapshot; most of it is zero.
"""

import ctypes
import os
from pathlib import Path

BLOCK = 64 << 10
PIECE = 4 << 20
# linux/falloc.h
KEEP_SIZE, PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def punch_zeros(path: Path) -> None:
    """Make holes of all aligned blocks of 64 KiB that hold nothing but zeros. Blocks.

    Raises OSError, also where the file system knows no holes.
    """
    with path.open("r+b", buffering=0) as file:
        fd = file.fileno()
        for begin, length in _zeros(fd):
            done = _libc.fallocate(
                fd, PUNCH_HOLE | KEEP_SIZE, ctypes.c_long(begin), ctypes.c_long(length)
            )
            if done != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"fallocate: {os.strerror(code)}", os.fspath(path))
        os.fsync(fd)


def _zeros(fd: int) -> list[tuple[int, int]]:
    """Runs of zero blocks: offset and length."""
    zero = bytes(BLOCK)
    runs: list[tuple[int, int]] = []
    offset, size = 0, os.fstat(fd).st_size
    while offset < size:
        piece = os.pread(fd, PIECE, offset)
        for place in range(0, len(piece), BLOCK):
            block = piece[place : place + BLOCK]
            if block != zero[: len(block)]:
                continue
            if runs and sum(runs[-1]) == offset + place:
                runs[-1] = (runs[-1][0], runs[-1][1] + len(block))
            else:
                runs.append((offset + place, len(block)))
        offset += len(piece)
    return runs
