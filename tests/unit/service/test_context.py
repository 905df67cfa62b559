"""The zip of a directory: Docker's ignore rules, stable bytes, nothing from outside."""

import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.service.context import ContextError, IgnoreRules, write_zip


@pytest.mark.parametrize(
    ("rules", "path", "ignored"),
    [
        ("node_modules", "node_modules/ws/index.js", True),
        ("node_modules", "src/node_modules/x", False),
        ("**/node_modules", "src/node_modules/x", True),
        ("**/node_modules", "node_modules", True),
        ("/build", "build/out", True),
        ("*.pyc", "a.pyc", True),
        ("*.pyc", "src/a.pyc", False),
        ("**/*.pyc", "src/deep/a.pyc", True),
        ("*.md\n!README.md", "README.md", False),
        ("*.md\n!README.md", "OTHER.md", True),
        ("docs\n!docs/keep", "docs/keep/a", False),
        ("docs\n!docs/keep", "docs/a", True),
        ("!a\na", "a", True),
        ("# comment\n\n", "comment", False),
        ("temp?", "temp1", True),
        ("temp?", "temp", False),
        ("[a-c].txt", "b.txt", True),
        ("[^a-c].txt", "b.txt", False),
        ("a/**", "a/b/c", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("**", "Dockerfile", False),
        ("**", "x/y", True),
        (r"a\*", "a*", True),
        (r"a\*", "ab", False),
        ("a.c", "abc", False),
    ],
)
def test_ignore_rules(rules: str, path: str, ignored: bool) -> None:
    assert IgnoreRules.parse(rules.splitlines()).ignores(path) is ignored


@given(st.text(max_size=30), st.text(alphabet="ab/*.[]!-", min_size=1, max_size=20))
def test_any_rule_compiles_and_answers(rule: str, path: str) -> None:
    assert IgnoreRules.parse([rule]).ignores(path) in (True, False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    (root / "src").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "secret").mkdir()
    (root / "Dockerfile").write_text("FROM scratch\n")
    (root / ".dockerignore").write_text("secret\n*.log\n")
    (root / "src" / "start.sh").write_text("#!/bin/sh\n")
    (root / "src" / "start.sh").chmod(0o755)
    (root / "secret" / "key").write_text("k")
    (root / "x.log").write_text("log")
    return root


def _zip(directory: Path) -> bytes:
    out = io.BytesIO()
    write_zip(directory, out)
    return out.getvalue()


def test_what_is_sent(directory: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(_zip(directory))) as archive:
        assert archive.namelist() == [".dockerignore", "Dockerfile", "empty/", "src/start.sh"]
        assert archive.getinfo("src/start.sh").external_attr >> 16 & 0o777 == 0o755


def test_same_content_same_bytes(directory: Path) -> None:
    before = _zip(directory)
    os.utime(directory / "Dockerfile", (1, 1))
    assert _zip(directory) == before


def test_link_to_a_file_inside_is_sent_as_the_file(directory: Path) -> None:
    (directory / "run.sh").symlink_to("src/start.sh")
    with zipfile.ZipFile(io.BytesIO(_zip(directory))) as archive:
        assert archive.read("run.sh") == b"#!/bin/sh\n"
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o170000 == 0o100000


def test_refused(directory: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("private")
    link = directory / "link"
    for target, why in [
        (outside, "outside of"),
        (directory / "src", "link to a directory"),
        (tmp_path / "absent", "link to nothing"),
    ]:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(ContextError, match=why):
            _zip(directory)
    link.unlink()
    os.mkfifo(directory / "pipe")
    with pytest.raises(ContextError, match="neither a file"):
        _zip(directory)


def test_needs_a_dockerfile(tmp_path: Path) -> None:
    with pytest.raises(ContextError, match="no Dockerfile"):
        _zip(tmp_path)
