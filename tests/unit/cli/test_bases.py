"""``microvmd base``: names come and go, and every refusal says the next step."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from microvmd.cli.bases import app


@pytest.fixture
def tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MICROVMD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("etc/motd")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"hi"))
    return path


def _run(*argv: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(argv))
    return done.exit_code, done.output


def test_add_alias_list_remove(tarball: Path) -> None:
    code, digest = _run("add", "tiny", str(tarball))
    assert code == 0, digest
    assert _run("alias", "public.ecr.aws/lambda/microvms:al2023-minimal", "tiny")[0] == 0
    listed = json.loads(_run("list", "--json")[1])
    by_name = {entry["name"]: entry for entry in listed}
    assert by_name["docker.io/library/tiny:latest"]["digest"] in digest
    alias = by_name["public.ecr.aws/lambda/microvms:al2023-minimal"]
    assert alias["aliasOf"] == "docker.io/library/tiny:latest"
    assert _run("remove", "tiny")[0] == 0
    assert "library/tiny:latest " not in _run("list")[1]


def test_recipes_are_listed_before_they_are_made(tarball: Path) -> None:
    assert "microvmd/python:3" in _run("list")[1]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("alias", "a", "absent"), "microvmd base list"),
        (("remove", "absent"), "microvmd base list"),
        (("alias", "BAD NAME", "microvmd/python:3"), "not an image name"),
    ],
)
def test_refused(tarball: Path, argv: tuple[str, ...], said: str) -> None:
    code, output = _run(*argv)
    assert code == 1
    assert said in output


def test_a_file_that_is_no_image_is_refused_in_words(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    code, output = _run("add", "mine", str(text))
    assert code == 1
    assert output.startswith("error: ")
