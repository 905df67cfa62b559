"""A guest that writes while the node's disk is full waits, and goes on when there is room."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from microvmd.node.snapshot import SuspendFiles
from microvmd.vmm.machine import FromSuspend, Status
from microvmd.vmm.qemu import ROOM_POLL, QemuMachine
from tests.smalldisk import small_disk

if TYPE_CHECKING:
    from tests.vm.conftest import SmallGuest

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

DISK_MIB = 64
LIMIT = 60
PUT = "put late 3000 9"


async def stopped(machine: QemuMachine) -> None:
    """Wait until a write has found no room."""
    async with asyncio.timeout(LIMIT):
        while await machine.status() is not Status.PAUSED:  # noqa: ASYNC110 - as QEMU says it
            await asyncio.sleep(0.05)


async def test_a_write_that_finds_no_room_waits(small_guest: "SmallGuest", tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK_MIB) as disk:
        async with small_guest.restored(disk.mount) as (machine, voice):
            async with asyncio.TaskGroup() as tasks:
                with disk.full():
                    writing = tasks.create_task(voice.ask(PUT, LIMIT))
                    await stopped(machine)
                    assert not writing.done()
                wrote = await writing
            assert wrote.startswith("ok ")
            assert await voice.ask("get late") == wrote
            assert await voice.ask("sum") == small_guest.memory_sum
            await machine.kill()


async def test_a_suspend_takes_the_write_along(small_guest: "SmallGuest", tmp_path: Path) -> None:
    """Nothing moves between the snapshot and the end of the VMM, also when there is room again."""
    files = SuspendFiles(tmp_path)
    with small_disk(tmp_path / "disk", DISK_MIB) as disk:
        async with small_guest.restored(disk.mount) as (machine, voice):
            with disk.full():
                voice.say(PUT)
                await stopped(machine)
                await machine.suspend(files.device, files.diff)
            await asyncio.sleep(2 * ROOM_POLL)
            assert await machine.status() is Status.PAUSED
            await machine.kill()
        start = FromSuspend(files.device, files.diff)
        async with small_guest.restored(disk.mount, start) as (machine, voice):
            wrote = await voice.hears(LIMIT)
            assert wrote.startswith("ok ")
            assert await voice.ask("get late") == wrote
            assert await voice.ask("sum") == small_guest.memory_sum
            await machine.kill()
