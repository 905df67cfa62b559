"""Digests and blocks of sparse files."""

import os
import random
from pathlib import Path

from microvmd.node.sparse import BLOCK, blocks, digest


def _write(path: Path, *pieces: tuple[int, bytes], size: int) -> Path:
    with path.open("wb") as file:
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)
        file.truncate(size)
    return path


def test_digest_does_not_depend_on_holes(tmp_path: Path) -> None:
    data = random.randbytes(5000)
    size = 20 * BLOCK + 77
    sparse = _write(tmp_path / "a", (3 * BLOCK + 100, data), size=size)
    full = tmp_path / "b"
    full.write_bytes(sparse.read_bytes())
    assert full.stat().st_blocks > sparse.stat().st_blocks
    assert digest(sparse) == digest(full)


def test_digest_sees_every_difference(tmp_path: Path) -> None:
    size = 8 * BLOCK
    files = [
        _write(tmp_path / "zero", size=size),
        _write(tmp_path / "longer", size=size + 1),
        _write(tmp_path / "empty", size=0),
        _write(tmp_path / "first", (0, b"x"), size=size),
        _write(tmp_path / "second", (BLOCK, b"x"), size=size),
        _write(tmp_path / "last", (size - 1, b"x"), size=size),
    ]
    assert len({digest(path) for path in files}) == len(files)


def test_only_blocks_with_data_are_read(tmp_path: Path) -> None:
    data = random.randbytes(100)
    size = 6 * BLOCK + 50
    path = _write(tmp_path / "a", (BLOCK, bytes(2 * BLOCK)), (3 * BLOCK + 9, data), size=size)
    with path.open("r+b") as file:
        file.seek(size - 1)
        file.write(b"e")
    with path.open("rb") as file:
        found = dict(blocks(file.fileno()))
    assert sorted(found) == [3 * BLOCK, 6 * BLOCK]
    assert found[3 * BLOCK][9:109] == data
    assert found[6 * BLOCK] == bytes(49) + b"e"


def test_an_empty_file_has_no_blocks(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", size=0)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert list(blocks(fd)) == []
    finally:
        os.close(fd)
