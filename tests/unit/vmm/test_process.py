"""Commands end with their output or an error that holds it, and no process is lost or mistaken."""

import asyncio
import os
import select
import signal
import sys
from pathlib import Path

import pytest

from microvmd.vmm import process
from microvmd.vmm.process import (
    Exit,
    Process,
    ProcessFailed,
    ProcessGone,
    ProcessIdentity,
    run,
    spawn,
)

pytestmark = pytest.mark.anyio

PYTHON = sys.executable


async def test_run_gives_both_streams() -> None:
    script = "import sys; print(sys.stdin.read()); print('no', file=sys.stderr)"
    pieces: list[bytes] = []
    done = await run([PYTHON, "-c", script], timeout=20, input=b"in", listener=pieces.append)
    assert (done.text, done.stderr, done.code) == ("in\n", b"no\n", 0)
    assert sorted(b"".join(pieces).split()) == [b"in", b"no"]


async def test_run_raises_with_argv_and_output() -> None:
    with pytest.raises(ProcessFailed, match=r"ended with 3: gone wrong") as caught:
        await run(["sh", "-c", "echo gone wrong >&2; exit 3"], timeout=20)
    assert caught.value.code == 3
    assert caught.value.argv[0] == "sh"
    done = await run(["sh", "-c", "exit 3"], timeout=20, check=False)
    assert done.code == 3


async def test_run_tells_a_signal() -> None:
    with pytest.raises(ProcessFailed) as caught:
        await run(["sh", "-c", "kill -KILL $$"], timeout=20)
    assert caught.value.code == -signal.SIGKILL


async def test_run_kills_the_whole_group_when_time_is_up(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(ProcessFailed, match="time or output limit"):
        await run(["sh", "-c", f"sleep 300 & echo $! > {pid_file}; wait"], timeout=1)
    await asyncio.to_thread(_wait_gone, int(pid_file.read_text()))


def _wait_gone(pid: int) -> None:
    """Its parent is dead, so only the pidfd of the orphan tells of its end."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


async def test_run_bounds_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "OUTPUT_LIMIT", 100_000)
    with pytest.raises(ProcessFailed, match="time or output limit"):
        await run(["yes"], timeout=20)


async def test_run_does_not_wait_for_a_grandchild_that_holds_the_pipe() -> None:
    async with asyncio.timeout(10):
        done = await run(["sh", "-c", "echo out; sleep 30 &"], timeout=20)
    assert done.text == "out\n"


async def test_spawn_stops_what_it_started() -> None:
    async with spawn(["sleep", "300"]) as child:
        assert child.identity.alive()
        assert os.getsid(child.pid) == child.pid
    assert await child.wait() == Exit(signal=signal.SIGTERM)
    assert not child.identity.alive()


async def test_stop_kills_what_does_not_listen() -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(300)"
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as output:
        async with spawn([PYTHON, "-uc", script], stdout=output) as child:
            assert await asyncio.to_thread(os.read, reader, 1) == b"1"
            assert await child.stop(grace=0.05) == Exit(signal=signal.SIGKILL)
    os.close(reader)


async def test_detached_goes_on_and_is_adopted() -> None:
    async with spawn(["sleep", "300"]) as child:
        child.detach()
    assert child.identity.alive()
    adopted = Process.adopt(child.identity)
    await adopted.kill()
    await child.wait()
    assert not child.identity.alive()


async def test_adopt_refuses_another_process_with_the_same_pid() -> None:
    async with spawn(["sleep", "300"]) as child:
        wrong = ProcessIdentity(child.pid, child.identity.start_time + 1)
        assert not wrong.alive()
        with pytest.raises(ProcessGone, match="another"):
            Process.adopt(wrong)
    with pytest.raises(ProcessGone):
        Process.adopt(child.identity)
    with pytest.raises(ProcessGone):
        ProcessIdentity.of(child.pid)


def test_exit_reads_as_words() -> None:
    assert [str(Exit(code=1)), str(Exit(signal=9)), str(Exit())] == [
        "exit code 1",
        "killed by SIGKILL",
        "ended",
    ]
