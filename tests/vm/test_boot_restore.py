"""Boot, image snapshot, and what clones of one snapshot share and do not share."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from microvmd.node.bring_up import lost
from microvmd.node.guest import GuestBroken, GuestGone
from microvmd.node.sparse import digest
from microvmd.vmm.console import LIMIT
from microvmd.vmm.machine import EndReason, FromImage, MachineFailed, MachineFiles, Status
from microvmd.vmm.qemu import QEMU, PlainLauncher, launch, program_of
from tests.accelerated import PATIENCE

if TYPE_CHECKING:
    from tests.vm.conftest import SmallGuest

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

END_LIMIT = 60


async def test_clones_start_equal_and_part(small_guest: "SmallGuest", tmp_path: Path) -> None:
    before = digest(small_guest.spec.memory_file), digest(small_guest.spec.drives[0].path)
    async with (
        small_guest.restored(tmp_path / "a") as (_, first),
        small_guest.restored(tmp_path / "b") as (_, second),
    ):
        for voice in (first, second):
            assert await voice.ask("sum") == small_guest.memory_sum
            assert await voice.ask("get base") == small_guest.file_sum
        changed = await first.ask("dirty 10 1")
        mine = await first.ask("put mine 100 1")
        yours = await second.ask("put yours 100 2")
        assert await first.ask("sum") == changed
        assert await second.ask("sum") == small_guest.memory_sum
        assert await first.ask("get mine") == mine
        assert await second.ask("get yours") == yours
        assert await first.ask("get yours") == "missing"
        assert await second.ask("get mine") == "missing"
    after = digest(small_guest.spec.memory_file), digest(small_guest.spec.drives[0].path)
    assert after == before


async def test_stands_still_until_cont(small_guest: "SmallGuest", tmp_path: Path) -> None:
    spec = small_guest.spec_for(tmp_path)
    start = FromImage(small_guest.device)
    async with launch(spec, MachineFiles(tmp_path), PlainLauncher(), start) as machine:
        assert await machine.status() is Status.PAUSED
        await machine.cont()
        assert await machine.status() is Status.RUNNING


@pytest.mark.parametrize(
    ("command", "reason"),
    [("reboot", EndReason.GUEST_RESET), ("poweroff", EndReason.GUEST_SHUTDOWN)],
)
async def test_tells_how_the_guest_ended(
    small_guest: "SmallGuest", tmp_path: Path, command: str, reason: EndReason
) -> None:
    async with small_guest.restored(tmp_path) as (machine, voice):
        voice.say(command)
        async with asyncio.timeout(END_LIMIT):
            end = await machine.wait()
    assert end.reason is reason
    assert end.exit.code == 0


async def test_every_binary_restores_it(small_guest: "SmallGuest", tmp_path: Path) -> None:
    """Where KVM works these are two, and a package that is removed must cost no image."""
    for qemu in {QEMU, program_of(small_guest.spec.accelerator)}:
        directory = tmp_path / qemu.name
        directory.mkdir()
        async with small_guest.restored(directory, qemu=qemu) as (_, voice):
            assert await voice.ask("sum") == small_guest.memory_sum


async def test_tells_a_crash_from_a_kill(small_guest: "SmallGuest", tmp_path: Path) -> None:
    async with small_guest.restored(tmp_path) as (machine, _):
        os.kill(machine.identity.pid, signal.SIGKILL)
        end = await machine.wait()
    assert (end.reason, end.exit.signal) == (EndReason.CRASH, signal.SIGKILL)
    async with small_guest.restored(tmp_path) as (machine, _):
        end = await machine.kill()
    assert end.reason is EndReason.ASKED


async def test_a_guest_that_is_lost_says_how(small_guest: "SmallGuest", tmp_path: Path) -> None:
    async with small_guest.restored(tmp_path) as (machine, voice):
        voice.say("reboot")
        failed = await lost(machine, GuestGone("it was cut"))
        assert isinstance(failed, MachineFailed)
        assert failed.what.startswith("the guest was lost before it answered: it was cut (guest-")
        broken = GuestBroken("nonsense")
        assert await lost(machine, broken) is broken


async def test_says_why_a_restore_failed(small_guest: "SmallGuest", tmp_path: Path) -> None:
    broken = tmp_path / "device"
    broken.write_bytes(small_guest.device.read_bytes()[:1000])
    with pytest.raises(MachineFailed, match="restore failed"):
        async with small_guest.restored(tmp_path, FromImage(broken)):
            pass


async def test_says_what_the_vmm_printed(small_guest: "SmallGuest", tmp_path: Path) -> None:
    spec = small_guest.spec_for(tmp_path)
    start = FromImage(small_guest.device)
    with pytest.raises(MachineFailed, match=r"VMM said: .*invalid option"):
        async with launch(
            spec, MachineFiles(tmp_path), PlainLauncher(), start, qemu=Path("/usr/bin/qemu-img")
        ):
            pass


async def test_one_disk_serves_one_vmm(small_guest: "SmallGuest", tmp_path: Path) -> None:
    async with small_guest.restored(tmp_path) as (machine, voice):
        spec, start = small_guest.spec_for(tmp_path), FromImage(small_guest.device)
        other = tmp_path / "other"
        other.mkdir()
        async with launch(spec, MachineFiles(other), PlainLauncher(), start) as second:
            with pytest.raises(MachineFailed, match="lock"):
                await second.cont()
        assert await voice.ask("ping") == "pong"
        assert await machine.status() is Status.RUNNING


async def test_a_talkative_guest_fills_no_disk(small_guest: "SmallGuest", tmp_path: Path) -> None:
    async with small_guest.restored(tmp_path) as (_, voice):
        assert await voice.ask("print 25000", limit=120 * PATIENCE) == "ok"
        kept = _size(tmp_path, "serial.log*")
        assert kept <= 2 * LIMIT
    assert "line 00024999" in (tmp_path / "serial.log").read_text()


def _size(directory: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in directory.glob(pattern))
