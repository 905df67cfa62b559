"""Who holds the lock of a root, and that it is ended."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from microvmd.service import ending
from microvmd.service.ending import end_service, holder_of
from microvmd.service.failure import Failure
from microvmd.service.serve import edge_settings
from microvmd.settings.settings import Settings
from microvmd.vmm.process import ProcessGone, ProcessIdentity

pytestmark = pytest.mark.anyio

HOLDER = """
import fcntl, signal, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("held", flush=True)
signal.pause()
"""


def _holder(lock: Path, kind: str = "plain") -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock), kind], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_who_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert holder_of(lock) is None
    lock.touch()
    assert holder_of(lock) is None
    fd = os.open(lock, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert holder_of(lock) == os.getpid()
    os.close(fd)
    assert holder_of(lock) is None


def test_the_device_of_a_lock_may_be_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on btrfs; and a file of the same number on another file system is not taken for it."""
    lock, other = tmp_path / "lock", tmp_path / "other"
    lock.touch()
    inode = lock.stat().st_ino
    with _holder(lock) as process, _holder(other) as stranger:
        row = "{}: FLOCK  ADVISORY  WRITE {} 00:2a:{} 0 EOF\n"
        told = tmp_path / "locks"
        told.write_text(row.format(1, stranger.pid, inode) + row.format(2, process.pid, inode))
        monkeypatch.setattr(ending, "LOCKS", told)
        assert holder_of(lock) == process.pid
        process.kill()
        stranger.kill()


async def test_a_service_is_ended(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path, run=tmp_path / "run")
    with _holder(tmp_path / "lock") as process:
        ended = await end_service(settings.root, settings.run, edge_settings(settings))
        assert ended == ending.Ended(process.pid, None, None)
        with pytest.raises(ProcessGone):
            ProcessIdentity.of(process.pid)


async def test_one_that_does_not_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "LIMIT_S", 0.1)
    settings = Settings(root=tmp_path, run=tmp_path / "run")
    with _holder(tmp_path / "lock", "stubborn") as process:
        try:
            with pytest.raises(Failure, match=f"process {process.pid} has not ended"):
                await end_service(settings.root, settings.run, edge_settings(settings))
        finally:
            process.kill()
