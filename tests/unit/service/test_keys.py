"""The service's secrets: made once, the same after a restart, for root's eyes only."""

import stat
from pathlib import Path

import pytest

from microvmd.service.keys import (
    ACCESS_KEY_FILE,
    CURSOR_KEY_FILE,
    MASTER_KEY_FILE,
    access_key,
    cursor_key,
    master_key,
)


def test_keys_are_made_once(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    key, cursor = access_key(directory), cursor_key(directory)
    assert (access_key(directory), cursor_key(directory)) == (key, cursor)
    other = tmp_path / "other"
    assert access_key(other) != key
    assert cursor_key(other) != cursor
    assert master_key(directory) == master_key(directory) != master_key(other)


def test_a_key_looks_like_one_of_aws(tmp_path: Path) -> None:
    key = access_key(tmp_path)
    assert key.access_key.startswith("AKIA")
    assert len(key.access_key) == 20
    assert len(key.secret_key) == 40
    assert key.secret_key not in repr(key)


@pytest.mark.parametrize("name", [ACCESS_KEY_FILE, CURSOR_KEY_FILE, MASTER_KEY_FILE])
def test_files_are_for_their_owner_only(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    access_key(directory)
    cursor_key(directory)
    master_key(directory)
    assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name for path in directory.iterdir()} == {
        ACCESS_KEY_FILE,
        CURSOR_KEY_FILE,
        MASTER_KEY_FILE,
    }


def test_a_file_that_a_crash_left_half_written_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "access-key.new").write_text("{")
    key = access_key(tmp_path)
    assert access_key(tmp_path) == key
