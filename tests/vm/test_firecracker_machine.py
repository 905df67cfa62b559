"""The driver of Firecracker against the real program, with a guest of 30 bytes (`tinyguest.py`).

Collected where /dev/kvm makes machines (`conftest.py`): a Linux guest would take minutes on some.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from microvmd.vmm import memory
from microvmd.vmm.firecracker import FirecrackerVmm, LinkingLauncher, installed_version
from microvmd.vmm.firecracker_machine import scratch_of
from microvmd.vmm.firecracker_metrics import failures
from microvmd.vmm.machine import (
    Accelerator,
    AcceleratorKind,
    Boot,
    Drive,
    EndReason,
    FromImage,
    FromSuspend,
    Machine,
    MachineFailed,
    MachineFiles,
    MachineSpec,
    Start,
    Status,
    SuspendMethod,
    launched,
)
from microvmd.vmm.process import ProcessGone
from tests.checkout import CHECKOUT
from tests.vm.tinyguest import COUNTER_ADDRESS, counted, write_kernel

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

PROGRAM = CHECKOUT / "build" / "firecracker" / "firecracker"
LIMIT = 60
DISK = 1 << 20


@dataclass(frozen=True)
class Counting:
    """An image of the guest that counts."""

    vmm: FirecrackerVmm
    spec: MachineSpec
    device: Path

    def spec_for(self, directory: Path) -> MachineSpec:
        directory.mkdir(exist_ok=True)
        disk = directory / "disk.raw"
        if not disk.exists():
            with disk.open("wb") as file:
                file.truncate(DISK)
        root, own = self.spec.drives
        return replace(self.spec, drives=(root, replace(own, path=disk)))

    @asynccontextmanager
    async def restored(self, directory: Path, start: Start | None = None) -> AsyncIterator[Machine]:
        """A clone that stands still."""
        spec, files = self.spec_for(directory), MachineFiles(directory)
        start = start or FromImage(self.device)
        async with launched(self.vmm, spec, files, LinkingLauncher(directory), start) as machine:
            yield machine


def count(machine: Machine, spec: MachineSpec) -> int:
    mapping = memory.find_mapping(machine.identity.pid, spec.memory_file)
    with open(f"/proc/{machine.identity.pid}/mem", "rb", buffering=0) as file:
        file.seek(mapping.start + COUNTER_ADDRESS)
        return counted(file.read(8))


async def counts_on(machine: Machine, spec: MachineSpec) -> int:
    """The counter, once it is beyond what it is now."""
    before = count(machine, spec)
    async with asyncio.timeout(LIMIT):
        while (now := count(machine, spec)) == before:  # noqa: ASYNC110 - the guest tells nobody
            await asyncio.sleep(0.01)
    return now


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Counting:
    return asyncio.run(_boot(tmp_path_factory.mktemp("counting")))


async def _boot(directory: Path) -> Counting:
    kernel, initrd = directory / "kernel", directory / "initrd"
    write_kernel(kernel)
    initrd.write_bytes(bytes(4096))
    for name in ("root", "disk"):
        with (directory / name).open("wb") as file:
            file.truncate(DISK)
    spec = MachineSpec(
        memory_mib=64,
        vcpus=1,
        memory_file=directory / "memory",
        kernel=kernel,
        initrd=initrd,
        accelerator=Accelerator(AcceleratorKind.KVM, "tests", 0),
        drives=(
            Drive("rootfs", directory / "root", read_only=True),
            Drive("disk", directory / "disk"),
        ),
    )
    vmm = FirecrackerVmm(PROGRAM, await installed_version(PROGRAM), in_jail=False)
    files, launcher = MachineFiles(directory), LinkingLauncher(directory)
    async with launched(vmm, spec, files, launcher, Boot()) as machine:
        assert await machine.status() is Status.PAUSED
        await machine.cont()
        assert await machine.status() is Status.RUNNING
        async with asyncio.timeout(LIMIT):
            while not files.serial_log.stat().st_size:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
        size = spec.memory_mib << 20
        assert memory.find_anonymous(machine.identity.pid, size), "else it is written in full"
        await machine.snapshot_image(directory / "device")
        assert await machine.status() is Status.PAUSED
    spec.memory_file.chmod(0o444)
    return Counting(vmm, spec, directory / "device")


async def test_an_image_takes_what_is_not_zero(counting: Counting) -> None:
    status = counting.spec.memory_file.stat()
    assert status.st_size == 64 << 20
    assert status.st_blocks * 512 < 8 << 20


async def test_keeps_what_it_counts(counting: Counting, tmp_path: Path) -> None:
    async with counting.restored(tmp_path / "vm") as machine:
        await machine.cont()
        counts = MachineFiles(tmp_path / "vm").counts_log
        socket = scratch_of(machine.identity.pid) / "api.sock"
        transport = httpx.AsyncHTTPTransport(uds=os.fspath(socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://vmm") as client:
            flush = {"action_type": "FlushMetrics"}
            (await client.put("/actions", json=flush)).raise_for_status()
        async with asyncio.timeout(LIMIT):
            while not counts.read_bytes().endswith(b"\n"):  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
        line = counts.read_bytes().splitlines()[-1]
        assert json.loads(line)["put_api_requests"]["actions_count"] >= 1
        assert failures(line) == {}


async def test_generations(counting: Counting, tmp_path: Path) -> None:
    start: Start = FromImage(counting.device)
    reached = 0
    for generation in range(4):
        device, diff = tmp_path / f"device{generation}", tmp_path / f"diff{generation}"
        async with counting.restored(tmp_path / "vm", start) as machine:
            assert await machine.status() is Status.PAUSED
            assert count(machine, counting.spec) >= reached
            if generation:
                assert count(machine, counting.spec) == reached
            await machine.cont()
            await counts_on(machine, counting.spec)
            stats = await machine.suspend(device, diff)
            reached = count(machine, counting.spec)
            assert stats.method is SuspendMethod.DIFF
            assert 0 < stats.diff_bytes < 1 << 20, "as large as what the guest wrote"
            assert stats.device_bytes == device.stat().st_size > 0
            await machine.kill()
        start = FromSuspend(device, diff)


async def test_clones_part_and_leave_the_image_as_it_is(counting: Counting, tmp_path: Path) -> None:
    before = counting.spec.memory_file.read_bytes()
    async with (
        counting.restored(tmp_path / "a") as first,
        counting.restored(tmp_path / "b") as second,
    ):
        still = count(second, counting.spec)
        await first.cont()
        assert await counts_on(first, counting.spec) > still
        assert count(second, counting.spec) == still
    assert counting.spec.memory_file.read_bytes() == before


async def test_a_failed_suspend_is_taken_back(counting: Counting, tmp_path: Path) -> None:
    async with counting.restored(tmp_path / "vm") as machine:
        await machine.cont()
        for device, diff in (("none/device", "diff"), ("device", "none/diff")):
            with pytest.raises(MachineFailed, match="taken back"):
                await machine.suspend(tmp_path / device, tmp_path / diff)
            assert await machine.status() is Status.RUNNING
            await counts_on(machine, counting.spec)


async def test_a_cancelled_suspend_is_taken_back(
    counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()
    find, loop = memory.find_mapping, asyncio.get_running_loop()

    def finding(pid: int, memory_file: Path) -> memory.Mapping:
        loop.call_soon_threadsafe(reached.set)
        return find(pid, memory_file)

    async with counting.restored(tmp_path / "vm") as machine:
        await machine.cont()
        with monkeypatch.context() as patched:
            patched.setattr(memory, "find_mapping", finding)
            async with asyncio.TaskGroup() as tasks:
                work = machine.suspend(tmp_path / "device", tmp_path / "diff")
                suspending = tasks.create_task(work)
                await reached.wait()
                suspending.cancel()
        assert suspending.cancelled()
        assert await machine.status() is Status.RUNNING
        await counts_on(machine, counting.spec)


@pytest.mark.parametrize("which", ["device", "diff", "memory"])
async def test_a_damaged_snapshot_says_so(counting: Counting, tmp_path: Path, which: str) -> None:
    device, diff = tmp_path / "device", tmp_path / "diff"
    async with counting.restored(tmp_path / "vm") as machine:
        await machine.cont()
        await machine.suspend(device, diff)
    spec = counting.spec
    if which == "memory":
        spec = replace(spec, memory_file=tmp_path / "memory")
        spec.memory_file.write_bytes(bytes(1 << 20))
    else:
        damaged = tmp_path / which
        damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(MachineFailed, match="restore failed"):
        async with replace(counting, spec=spec).restored(
            tmp_path / "vm", FromSuspend(device, diff)
        ):
            pass


async def test_tells_a_crash_from_a_kill(counting: Counting, tmp_path: Path) -> None:
    async with counting.restored(tmp_path / "vm") as machine:
        os.kill(machine.identity.pid, signal.SIGKILL)
        end = await machine.wait()
        assert (end.reason, end.exit.signal) == (EndReason.CRASH, signal.SIGKILL)
        with pytest.raises(MachineFailed, match="the VMM has ended"):
            await machine.cont()
    async with counting.restored(tmp_path / "vm") as machine:
        assert (await machine.kill()).reason is EndReason.ASKED


async def test_one_that_goes_on_is_adopted(counting: Counting, tmp_path: Path) -> None:
    files, spec = MachineFiles(tmp_path / "vm"), counting.spec_for(tmp_path / "vm")
    async with counting.restored(tmp_path / "vm") as machine:
        await machine.cont()
        identity = machine.identity
        machine.detach()
    assert identity.alive()
    async with counting.vmm.adopt(spec, files, identity) as adopted:
        assert await adopted.status() is Status.RUNNING
        await counts_on(adopted, counting.spec)
        await adopted.suspend(tmp_path / "device", tmp_path / "diff")
        assert (await adopted.kill()).reason is EndReason.ASKED
    with pytest.raises(ProcessGone):
        async with counting.vmm.adopt(spec, files, identity):
            pass
    start = FromSuspend(tmp_path / "device", tmp_path / "diff")
    async with counting.restored(tmp_path / "vm", start) as machine:
        await machine.cont()
        await counts_on(machine, counting.spec)


async def test_what_is_no_firecracker_says_so(counting: Counting, tmp_path: Path) -> None:
    strange = replace(counting, vmm=replace(counting.vmm, program=Path("/bin/false")))
    with pytest.raises(MachineFailed, match="Firecracker has ended"):
        async with strange.restored(tmp_path / "vm"):
            pass


async def test_a_disk_that_is_open_elsewhere_is_not_resumed(
    counting: Counting, tmp_path: Path
) -> None:
    device, diff = tmp_path / "device", tmp_path / "diff"
    async with counting.restored(tmp_path / "vm") as machine:
        await machine.cont()
        await machine.suspend(device, diff)
        await machine.kill()
    disk = os.open(tmp_path / "vm" / "disk.raw", os.O_RDONLY)
    try:
        with pytest.raises(MachineFailed, match="another program has it open"):
            async with counting.restored(tmp_path / "vm", FromSuspend(device, diff)):
                pass
    finally:
        os.close(disk)
