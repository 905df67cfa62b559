"""A digest is believed for the file that it was taken of, as long as nothing has touched that."""

import json
import os
import stat
import time
from pathlib import Path

import pytest

from microvmd.node import known_files
from microvmd.node.known_files import KnownFiles
from microvmd.node.sparse import Abandoned, digest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def known(tmp_path: Path) -> KnownFiles:
    return KnownFiles(tmp_path / "known.json")


def test_taken_once(path: Path, known: KnownFiles) -> None:
    assert known.find(path) is None
    assert known.take(path, digest) == known.find(path) == digest(path)


def test_told_by_the_writer(path: Path, known: KnownFiles) -> None:
    known.told(path, "abc")
    assert known.find(path) == "abc"


def test_a_change_with_the_old_times_is_seen(path: Path, known: KnownFiles) -> None:
    known.take(path, digest)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"C")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert known.find(path) is None


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    path: Path, known: KnownFiles
) -> None:
    def changing(file: Path) -> str:
        file.write_bytes(b"changed")
        return "of the old content"

    known.take(path, changing)
    assert known.find(path) is None


def test_a_file_from_the_future_is_not_remembered(
    path: Path, known: KnownFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was set back: a later change could get the same ctime."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    monkeypatch.setattr(known_files, "TICK_NS", 1)
    assert known.take(path, digest) == digest(path)
    assert known.find(path) is None


def test_outlives_the_process_but_not_the_boot(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "known.json"
    known = KnownFiles(record)
    known.take(path, digest)
    known.save()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert KnownFiles(record).find(path) == digest(path)
    other = tmp_path / "boot_id"
    other.write_text("another\n")
    monkeypatch.setattr(known_files, "BOOT_ID", other)
    assert KnownFiles(record).find(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": 1}', '{"boot": "B", "files": [[1]]}'])
def test_a_record_that_cannot_be_read_is_empty(path: Path, tmp_path: Path, text: str) -> None:
    record = tmp_path / "known.json"
    record.write_text(text.replace("B", known_files.BOOT_ID.read_text().strip()))
    assert KnownFiles(record).find(path) is None


def test_a_record_that_cannot_be_written_costs_only_time(path: Path, tmp_path: Path) -> None:
    known = KnownFiles(tmp_path / "nowhere" / "known.json")
    known.take(path, digest)
    known.save()
    assert known.find(path) == digest(path)


def test_it_does_not_grow_for_ever(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "MOST", 2)
    record = tmp_path / "known.json"
    known = KnownFiles(record)
    other, third = tmp_path / "other", tmp_path / "third"
    for one in (other, third):
        one.touch()
    known.take(path, digest)
    known.take(other, digest)
    assert known.find(path)
    known.take(third, digest)
    known.save()
    assert (known.find(path) is None, known.find(other)) == (False, None)
    assert len(json.loads(record.read_text())["files"]) == 2


def test_reading_can_be_given_up(path: Path, known: KnownFiles) -> None:
    with pytest.raises(Abandoned):
        known.take(path, lambda file: digest(file, lambda: True))
    assert known.find(path) is None
