"""The program inside the builder, as far as it runs without one."""

import io
import os
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from microvmd.build import inside


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(inside, "WORK", tmp_path)
    return tmp_path


def archive(directory: Path, name: str = "bin/run", mode: int = 0o4775) -> dict[str, object]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (stat.S_IFREG | mode) << 16
        made.writestr(entry, b"#!/bin/sh\n")
        made.writestr("empty/", b"")
        made.writestr("Dockerfile", "FROM --platform=linux/arm64 a\r\nRUN x\r\n")
    path = directory / "a.zip"
    path.write_bytes(buffer.getvalue())
    return {"archive": str(path), "archive_size": path.stat().st_size}


def test_files_keep_their_execute_bit_and_no_other(work: Path) -> None:
    inside.unpack(archive(work))
    program = work / "context/bin/run"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert stat.S_IMODE((work / "context/Dockerfile").stat().st_mode) == 0o644
    assert (work / "context/empty").is_dir()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a//b"])
def test_a_bad_name_is_refused_here_too(work: Path, name: str) -> None:
    with pytest.raises(ValueError, match="bad name"):
        inside.unpack(archive(work, name))


def test_an_archive_on_a_disk_is_read_to_its_exact_end(work: Path) -> None:
    job = archive(work)
    size = os.path.getsize(str(job["archive"]))
    disk = work / "disk"
    disk.write_bytes((work / "a.zip").read_bytes() + bytes(-size % 512))
    assert inside.trim(disk, size).read_bytes() == (work / "a.zip").read_bytes()


def test_lines_of_the_dockerfile_are_replaced(work: Path) -> None:
    inside.unpack(archive(work))
    inside.settle_dockerfile({"lines": {"0": "FROM a"}})
    assert (work / "Dockerfile").read_text() == "FROM a\nRUN x\n"


def test_holes_count_as_what_they_would_be_on_a_disk(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    os.link(tmp_path / "a", tmp_path / "b")
    inside.check_files(tmp_path, 10)
    (tmp_path / "deep").mkdir()
    with (tmp_path / "deep" / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(inside.Unpackable, match="exceed 1000 bytes at '/deep/huge'") as caught:
        inside.check_files(tmp_path, 1000)
    assert caught.value.code == inside.EXIT_TOO_LARGE


def test_a_path_that_no_packer_can_open_is_told(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(inside.Unpackable, match="a path that is too long") as caught:
        inside.check_files(tmp_path, 1 << 30)
    assert caught.value.code == inside.EXIT_FAILED


def test_folders_are_made_as_far_as_it_goes(tmp_path: Path) -> None:
    deep = f"{tmp_path}/" + "/".join(["a"] * 1500)
    inside.make_folders(deep)
    assert os.path.isdir(deep)
    inside.make_folders(f"{tmp_path}/file/below")
    (tmp_path / "plain").write_text("x")
    inside.make_folders(f"{tmp_path}/plain/below")
    assert (tmp_path / "plain").read_text() == "x"
    subprocess.run(["rm", "-rf", f"{tmp_path}/a"], check=True)


def test_the_disk_is_watched(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "STORE", work)
    space = inside.Space()
    space.start()
    assert not space.was_short()
