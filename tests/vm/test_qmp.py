"""The monitor of a real QEMU that has no machine: answers, refusals, files, and its end."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from microvmd.vmm.process import Process, spawn
from microvmd.vmm.qemu import QEMU, installed_version
from microvmd.vmm.qmp import Qmp, QmpFailed

pytestmark = [pytest.mark.vm, pytest.mark.anyio]


@asynccontextmanager
async def monitor(directory: Path) -> AsyncIterator[tuple[Qmp, Process]]:
    path = directory / "qmp"
    with socket.socket(socket.AF_UNIX) as listener, (directory / "vmm.log").open("wb") as log:
        listener.bind(os.fspath(path))
        listener.listen(1)
        argv = [os.fspath(QEMU), "-machine", "none", "-nodefaults", "-display", "none", "-S"]
        argv += ["-chardev", f"socket,id=qmp,fd={listener.fileno()},server=on,wait=off"]
        argv += ["-mon", "chardev=qmp,mode=control"]
        fds = (listener.fileno(),)
        async with spawn(argv, stdout=log.fileno(), stderr=log.fileno(), fds=fds) as process:
            listener.close()
            qmp = Qmp("test")
            await qmp.connect(path)
            try:
                yield qmp, process
            finally:
                await qmp.close()


async def test_answers_and_refusals(tmp_path: Path) -> None:
    async with monitor(tmp_path) as (qmp, _):
        assert qmp.version == await installed_version()
        status = await qmp.execute("query-status")
        assert isinstance(status, dict)
        assert status["running"] is False
        with pytest.raises(QmpFailed, match="no-such-command"):
            await qmp.execute("no-such-command")
        assert await qmp.execute("query-name") == {}, "a refusal ends nothing"


async def test_a_file_is_handed_over_and_let_go(tmp_path: Path) -> None:
    async with monitor(tmp_path) as (qmp, _):
        with (tmp_path / "file").open("wb") as file:
            assert await qmp.add_file(file.fileno(), 7) == "/dev/fdset/7"
        sets = await qmp.execute("query-fdsets")
        assert isinstance(sets, list)
        assert [one["fdset-id"] for one in sets] == [7]
        await qmp.remove_file(7)
        assert await qmp.execute("query-fdsets") == []


async def test_a_migration_that_cannot_be(tmp_path: Path) -> None:
    async with monitor(tmp_path) as (qmp, _):
        await qmp.capabilities()
        with pytest.raises(QmpFailed, match="migrate"):
            await qmp.migrate("migrate", "/no/such/directory/file", limit=30)


async def test_a_qemu_that_ends(tmp_path: Path) -> None:
    async with monitor(tmp_path) as (qmp, process):
        await qmp.execute("quit")
        await process.wait()
        assert qmp.shutdown_reason == "host-qmp-quit"
        with pytest.raises(QmpFailed):
            await qmp.execute("query-status")


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(QmpFailed, match="does not answer"):
        await Qmp("test").connect(tmp_path / "none")
