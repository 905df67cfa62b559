"""Code in a closed directory is reached by the service's user, alone, and by nobody else."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from microvmd.service.reach import closed
from microvmd.service.user import CODE, ServiceUser

pytestmark = pytest.mark.root

NOBODY = ServiceUser("nobody", 65534, 65534)
PROGRAM = """
import json, os, pathlib, sys
from microvmd.service.reach import open_way
from microvmd.service.user import CODE, ServiceUser, give_up_root
code, secret, way = sys.argv[1:]
user = ServiceUser("nobody", 65534, 65534)
if way == "open":
    open_way([pathlib.Path(code), *CODE], user)
give_up_root(user, low_port=False)
def read(path):
    try:
        return open(path).read()
    except OSError as error:
        return type(error).__name__
print(json.dumps({
    "code": read(f"{code}/module.py"),
    "child": os.popen(f"cat {code}/module.py").read(),
    "secret": read(secret),
    "beside": os.access(os.path.dirname(code), os.W_OK),
}))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A closed directory with code two floors below, and a secret beside it."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory).resolve()
        code = place / "checkout" / "src"
        code.mkdir(parents=True)
        (code / "module.py").write_text("x = 1\n")
        (place / "secret").write_text("root's own\n")
        yield place


def _seen(home: Path, way: str) -> dict[str, str | bool]:
    argv = [
        sys.executable,
        "-c",
        PROGRAM,
        str(home / "checkout" / "src"),
        str(home / "secret"),
        way,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, str | bool] = json.loads(done.stdout.splitlines()[-1])
    return found


def _mounts_on(*paths: Path) -> list[str]:
    """At these paths, above and below them; elsewhere others on this machine may mount."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [(Path(line.split()[4]), line) for line in lines]
    return [
        line
        for point, line in found
        if any(point.is_relative_to(path) or path.is_relative_to(point) for path in paths)
    ]


def test_what_is_closed(home: Path) -> None:
    assert closed(home / "checkout" / "src", NOBODY) == home
    home.chmod(0o711)
    assert closed(home / "checkout" / "src", NOBODY) is None


def test_without_a_way_it_is_not_reached(home: Path) -> None:
    assert _seen(home, "closed")["code"] == "PermissionError"


def test_the_code_is_reached_and_nothing_beside_it(home: Path) -> None:
    mounts = _mounts_on(home, *CODE)
    seen = _seen(home, "open")
    assert seen["code"] == seen["child"] == "x = 1\n"
    assert seen["secret"] == "FileNotFoundError"
    assert seen["beside"] is False
    # Nothing of this is seen outside.
    assert _mounts_on(home, *CODE) == mounts
    assert (home / "secret").read_text() == "root's own\n"
    assert (home.stat().st_mode & 0o777) == 0o700
