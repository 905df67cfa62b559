"""When a service does not start: it says why, and leaves nothing behind."""

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from microvmd.node.paths import LONGEST_ROOT
from microvmd.service.failure import Failure
from microvmd.service.serve import serve
from microvmd.settings.settings import Settings

pytestmark = pytest.mark.root


@pytest.fixture
def root() -> Iterator[Path]:
    """A short one."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        yield Path(directory) / "root"


def test_two_services_never_share_a_root(root: Path) -> None:
    root.mkdir()
    program = "import fcntl,sys; f=open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    program += "; print('locked', flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", program, str(root / "lock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(Failure, match="another microvmd serve uses"):
            serve(Settings(root=root, run=root / "run"))
        assert other.stdin is not None
        other.stdin.close()
    assert not list((root / "keys").glob("*")), "nothing was made for this one"
    assert not (root / "state.db").exists()


def test_a_root_that_is_too_long_for_sockets(root: Path) -> None:
    long = root / ("r" * LONGEST_ROOT)
    with pytest.raises(Failure, match="too long"):
        serve(Settings(root=long, run=root / "run"))
    assert not long.exists()


def test_without_guest_assets_it_says_what_is_missing(root: Path) -> None:
    """In a process of its own, which gives root up."""
    settings: dict[str, object] = {
        "ROOT": root,
        "RUN": root.parent / "run",
        "ASSETS": root / "none",
    }
    settings |= {"CACHE": root.parent / "cache", "EDGE_PORT": 18443}
    aws = {"AWS_CONFIG_FILE": root.parent / "a", "AWS_SHARED_CREDENTIALS_FILE": root.parent / "b"}
    given = {**{f"MICROVMD_{name}": value for name, value in settings.items()}, **aws}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "microvmd"), "serve"],
        env=os.environ | {name: str(value) for name, value in given.items()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert f"{root}/none" in done.stderr.splitlines()[-2]
    assert "microvmd doctor" in done.stderr.splitlines()[-1]
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
