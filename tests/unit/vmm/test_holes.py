"""Zeros of a memory file give their disk space back, and nothing else changes."""

import os
from pathlib import Path

from microvmd.vmm.holes import BLOCK, PIECE, punch_zeros


def test_zeros_become_holes(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    content = os.urandom(BLOCK) + bytes(PIECE + BLOCK) + os.urandom(100) + bytes(2 * BLOCK)
    path.write_bytes(content)
    punch_zeros(path)
    assert path.read_bytes() == content
    status = path.stat()
    assert status.st_size == len(content)
    assert status.st_blocks * 512 <= 4 * BLOCK


def test_a_file_without_zeros_stays(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(os.urandom(3 * BLOCK))
    before = path.stat().st_blocks
    punch_zeros(path)
    assert path.stat().st_blocks == before
