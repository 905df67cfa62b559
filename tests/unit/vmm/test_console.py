"""A console log keeps the end of what was written, and never more than twice its limit."""

import asyncio
import os
from pathlib import Path

import pytest

from microvmd.vmm import console
from microvmd.vmm.console import LIMIT, BoundedLog

pytestmark = pytest.mark.anyio


async def test_keeps_the_end_of_much(tmp_path: Path) -> None:
    path = tmp_path / "serial.log"
    with BoundedLog(path) as log, log.ends() as (writer, _):
        for number in range(4 * LIMIT // 1000):
            os.write(writer, b"%06d " % number + b"x" * 992 + b"\n")
            assert log.tail().splitlines()[-1].startswith(f"{number:06d}")
    assert LIMIT // 2 < _size(tmp_path) <= 2 * LIMIT


async def test_a_writer_without_a_reader_is_not_held_up(tmp_path: Path) -> None:
    path = tmp_path / "serial.log"
    with BoundedLog(path) as log, log.ends() as (writer, reader):
        kept = os.dup(writer), os.dup(reader)
    with pytest.raises(BlockingIOError):  # full, but neither broken nor waited for
        _write_for_ever(kept[0])
    with BoundedLog(path) as log:  # the next run of the node reads on
        assert "yyyy" in log.tail()
    for fd in kept:
        os.close(fd)


async def test_who_writes_all_the_time_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte, as a serial port does, and the log has all of it in the end."""
    looks = 0
    pump = BoundedLog._pump

    def counted(log: BoundedLog) -> bool:
        nonlocal looks
        looks += 1
        return pump(log)

    monkeypatch.setattr(console, "PAUSE", 1000)
    monkeypatch.setattr(BoundedLog, "_pump", counted)
    path = tmp_path / "serial.log"
    with BoundedLog(path) as log, log.ends() as (writer, _):
        for _ in range(100):
            os.write(writer, b"x")
            await asyncio.sleep(0)
        assert looks == 1
    assert path.read_bytes() == b"x" * 100


async def test_what_comes_later_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when somebody has read in between what was to be looked at."""
    monkeypatch.setattr(console, "PAUSE", 0)
    path = tmp_path / "serial.log"
    with BoundedLog(path) as log, log.ends() as (writer, _):
        for number in range(20):
            os.write(writer, b"%d\n" % number)
            if number % 2:
                assert log.tail().endswith(str(number))
            async with asyncio.timeout(10):
                while not path.read_bytes().endswith(b"%d\n" % number):  # noqa: ASYNC110
                    await asyncio.sleep(0)


async def test_tail_reaches_into_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "vmm.log"
    with BoundedLog(path) as log, log.ends() as (writer, _):
        path.with_suffix(".log.1").write_text("older")
        os.write(writer, b" newer")
        assert log.tail() == "older newer"


def _write_for_ever(fd: int) -> None:
    while True:
        os.write(fd, b"y" * 4096)


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("serial.log*"))


async def test_shows_what_comes_to_who_wants_it(tmp_path: Path) -> None:
    """With where it is, which changes when a MicroVM claims the VMM."""
    seen: list[tuple[Path, bytes]] = []
    waiting, claimed = tmp_path / "waiting", tmp_path / "microvm"
    waiting.mkdir()
    with (
        BoundedLog(waiting / "counts.log", lambda *piece: seen.append(piece)) as log,
        log.ends() as (writer, _),
    ):
        os.write(writer, b"one\n")
        assert log.tail() == "one"
        waiting.rename(claimed)
        log.moved(claimed / "counts.log")
        os.write(writer, b"two\n")
        assert log.tail() == "one\ntwo"
    assert seen == [(waiting / "counts.log", b"one\n"), (claimed / "counts.log", b"two\n")]
