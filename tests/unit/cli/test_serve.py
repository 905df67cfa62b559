"""When a service does not start: it says why, and leaves nothing behind."""

import fcntl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from microvmd.cli.failure import Failure
from microvmd.cli.serve import serve
from microvmd.cli.settings import Settings
from microvmd.node.paths import LONGEST_ROOT

pytestmark = pytest.mark.root


@pytest.fixture
def root() -> Iterator[Path]:
    """A short one."""
    with tempfile.TemporaryDirectory() as directory:
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
    assert [path.name for path in root.iterdir()] == ["lock"]


def test_a_root_that_is_too_long_for_sockets(root: Path) -> None:
    long = root / ("r" * LONGEST_ROOT)
    with pytest.raises(Failure, match="too long"):
        serve(Settings(root=long, run=root / "run"))
    assert not long.exists()


def test_without_guest_assets_it_says_what_is_missing(root: Path) -> None:
    settings = Settings(root=root, run=root / "run", assets=root / "none", cache=root / "cache")
    with pytest.raises(Failure, match="none"):
        serve(settings)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
