"""A keeper outlives its nodes and not its service."""

import asyncio
import os
import socket
import stat
import textwrap
from pathlib import Path

import pytest

from microvmd.service.keeper import bind, keep
from tests.serviceprocess import until

pytestmark = [pytest.mark.anyio, pytest.mark.root]

NODE = """
    import os, sys, time
    with open({log!r}, "a") as log:
        log.write(f"{{os.getpid()}}\\n")
    time.sleep(60)
"""


def _pids(log: Path, count: int) -> list[int]:
    """Of the nodes so far, when there are so many."""

    def ask() -> list[int] | None:
        found = [int(line) for line in log.read_text().split()] if log.exists() else []
        return found if len(found) >= count else None

    return until(ask, 60, f"{count} nodes were started")


def _program(directory: Path, log: Path) -> None:
    """Stands for ``python -m microvmd.service.node``."""
    package = directory / "microvmd" / "service"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    (package / "node.py").write_text(textwrap.dedent(NODE.format(log=str(log))))


async def test_a_node_that_dies_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    _program(tmp_path, log)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(keep(listener.fileno(), reader, "unused"))
            first = (await asyncio.to_thread(_pids, log, 1))[0]
            os.kill(first, 9)
            second = (await asyncio.to_thread(_pids, log, 2))[1]
            os.close(writer)
            await keeping
    os.close(reader)
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_socket_is_for_root_and_the_group(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    for _ in range(2):
        with bind(path, 65534) as listener:
            found = path.stat()
            assert (found.st_uid, found.st_gid) == (0, 65534)
            assert stat.S_IMODE(found.st_mode) == 0o660
            assert listener.getsockname() == str(path)
