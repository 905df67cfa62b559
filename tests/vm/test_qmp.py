"""The monitor of a real QEMU that has no machine: answers, refusals, files, and its end."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from qemu.qmp import Message

from microvmd.vmm import qmp as monitor_of_vmm
from microvmd.vmm.process import Process, spawn
from microvmd.vmm.qemu import QEMU, installed_version
from microvmd.vmm.qmp import MESSAGE_LIMIT, Qmp, QmpFailed

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


GREETING = {"QMP": {"version": {"qemu": {"major": 1, "minor": 0, "micro": 0}}, "capabilities": []}}
STAMP = {"seconds": 0, "microseconds": 0}
MANY = 1000


@asynccontextmanager
async def taken_over(path: Path, *events: object) -> AsyncIterator[Qmp]:
    """The monitor of a VMM that says events, as no QEMU does, before its first real answer."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(value: object) -> None:
            writer.write(json.dumps(value).encode() + b"\r\n")

        say(GREETING)
        for number in range(2):
            asked = json.loads(await reader.read(65536))
            if number:
                for data in events:
                    say({"event": "SHUTDOWN", "timestamp": STAMP, "data": data})
            say({"return": {}, **{name: asked[name] for name in asked if name == "id"}})
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(play, path):
        qmp = Qmp("test")
        await qmp.connect(path)
        try:
            yield qmp
        finally:
            await qmp.close()


async def test_what_a_vmm_says_again_and_again_is_not_kept(tmp_path: Path) -> None:
    said = ([], "x", {"reason": []}, *[{"reason": "guest-panic"}] * MANY)
    async with taken_over(tmp_path / "qmp", *said) as qmp:
        await qmp.execute("query-status")
        assert qmp.shutdown_reason == "guest-panic"
        events = qmp._client.events
        assert (len(events.history), events.empty()) == (0, True)
        # As the library's listener does it.
        events.event_filter = None
        await events.put(Message({"event": "SHUTDOWN"}))
        assert len(events.history) == 1


@pytest.mark.parametrize("paced", [False, True])
async def test_a_vmm_that_says_much_is_read_at_a_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paced: bool
) -> None:
    burst = MANY / 2 * monitor_of_vmm.MESSAGE_COST if paced else 1e12
    monkeypatch.setattr(monitor_of_vmm, "BURST", burst)
    monkeypatch.setattr(monitor_of_vmm, "RATE", 1e-9)
    said = [{"reason": str(number)} for number in range(MANY)]
    async with taken_over(tmp_path / "qmp", *said) as qmp:
        if not paced:
            await qmp.execute("query-status")
            assert qmp.shutdown_reason == str(MANY - 1)
            return
        with pytest.raises(QmpFailed, match="query-status"):
            await qmp.execute("query-status", limit=3)
        assert 0 < int(qmp.shutdown_reason or 0) < MANY / 2


@pytest.mark.parametrize("data", ["x" * MESSAGE_LIMIT, "[" * 500_000], ids=["long", "deep"])
async def test_a_vmm_that_says_what_cannot_be_read_is_heard_no_more(
    tmp_path: Path, data: str
) -> None:
    path = tmp_path / "qmp"

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(GREETING).encode() + b"\r\n")
        asked = json.loads(await reader.read(65536))
        writer.write(json.dumps({"return": {}, "id": asked.get("id")}).encode() + b"\r\n")
        await reader.read(65536)
        writer.write(b'{"event": "SHUTDOWN", "data": ' + data.encode() + b"}\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(play, path):
        qmp = Qmp("test")
        await qmp.connect(path)
        with pytest.raises(QmpFailed, match="query-status"):
            await qmp.execute("query-status")
        await qmp.close()
