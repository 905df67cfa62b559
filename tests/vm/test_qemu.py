"""What `prepare`, `launch` and `adopt` promise around a machine, beside restore and suspend."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from microvmd.vmm.machine import EndReason, FromImage, MachineFailed, MachineFiles, Status
from microvmd.vmm.process import ProcessGone, ProcessIdentity
from microvmd.vmm.qemu import EmptyQemu, PlainLauncher, adopt, installed_version, prepare
from tests.vm.conftest import talk

if TYPE_CHECKING:
    from tests.vm.conftest import SmallGuest

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

LIMIT = 30.0


async def test_a_machine_tells_its_version_and_its_end(
    small_guest: "SmallGuest", tmp_path: Path
) -> None:
    async with small_guest.restored(tmp_path / "m") as (machine, _):
        assert machine.vmm_version == await installed_version()
        assert await machine.status() is Status.RUNNING
        ended = await machine.kill()
        assert ended.reason is EndReason.ASKED
        assert await machine.wait() == ended
        with pytest.raises(MachineFailed, match="the VMM has ended"):
            await machine.cont()


async def test_who_stops_waiting_for_an_adoption_ends_no_guest(
    small_guest: "SmallGuest", tmp_path: Path
) -> None:
    directory = tmp_path / "m"
    files, spec = MachineFiles(directory), small_guest.spec_for(directory)
    async with small_guest.restored(directory) as (machine, voice):
        # Our connection is the only one that QEMU serves, so that the adoption has to wait.
        async with asyncio.TaskGroup() as tasks:
            adopting = tasks.create_task(_adopted(small_guest, files, machine.identity))
            assert await voice.ask("sync") == "ok"
            adopting.cancel()
        assert machine.identity.alive()
        assert await voice.ask("sync") == "ok"
    assert not machine.identity.alive()
    with pytest.raises(ProcessGone):
        async with adopt(spec, files, machine.identity):
            raise AssertionError("adopted what is gone")


async def test_an_empty_machine_is_filled_under_another_name_by_another_task(
    small_guest: "SmallGuest", tmp_path: Path
) -> None:
    before, after = tmp_path / "waiting", tmp_path / "m"
    files, spec = MachineFiles(before), small_guest.spec_for(before)
    async with contextlib.AsyncExitStack() as stack:

        async def prepared() -> EmptyQemu:
            return await stack.enter_async_context(
                prepare(spec, files, PlainLauncher(), FromImage(small_guest.device))
            )

        async with asyncio.TaskGroup() as tasks:
            preparing = tasks.create_task(prepared())
        empty = preparing.result()
        before.rename(after)
        files, spec = MachineFiles(after), small_guest.spec_for(after)
        async with empty.fill(spec, files) as machine:
            assert await machine.status() is Status.PAUSED, "no guest has run an instruction"
            await machine.cont()
            async with talk(files) as voice:
                assert await voice.ask("sync") == "ok"
            await machine.suspend(after / "device", after / "diff")
            assert (await machine.kill()).reason is EndReason.ASKED
        assert files.vmm_log.exists()
        assert not before.exists()


async def test_an_empty_machine_that_ends_says_so(
    small_guest: "SmallGuest", tmp_path: Path
) -> None:
    files, spec = MachineFiles(tmp_path), small_guest.spec_for(tmp_path)
    start = FromImage(small_guest.device)
    async with prepare(spec, files, PlainLauncher(), start) as empty:
        os.kill(empty.identity.pid, signal.SIGKILL)
        async with asyncio.timeout(LIMIT):
            await empty.ended()
        with pytest.raises(MachineFailed, match="the VMM has ended"):
            async with empty.fill(spec, files):
                raise AssertionError("filled what is gone")


async def _adopted(guest: "SmallGuest", files: MachineFiles, identity: ProcessIdentity) -> None:
    async with adopt(guest.spec_for(files.directory), files, identity):
        raise AssertionError("QEMU serves one monitor connection at a time")


async def test_sockets_are_for_root_only(small_guest: "SmallGuest", tmp_path: Path) -> None:
    async with small_guest.restored(tmp_path / "m"):
        for path in (MachineFiles(tmp_path / "m").control, MachineFiles(tmp_path / "m").agent):
            assert os.stat(path).st_mode & 0o777 == 0o600
