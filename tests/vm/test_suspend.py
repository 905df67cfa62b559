"""Suspend and resume: memory and disk go on as they were, and a failed suspend changes nothing."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from microvmd.node.known_files import KnownFiles
from microvmd.node.snapshot import (
    FileRecord,
    Manifest,
    SnapshotBroken,
    SnapshotForeign,
    SnapshotKind,
    Stamp,
    SuspendFiles,
    check,
    commit_suspend,
    load,
    retire,
    unknown,
    verify,
)
from microvmd.vmm import memory, qemu
from microvmd.vmm.machine import (
    End,
    FromImage,
    FromSuspend,
    MachineFailed,
    Start,
    Status,
    SuspendMethod,
)
from microvmd.vmm.process import run
from microvmd.vmm.qemu import QemuMachine, QemuVmm

if TYPE_CHECKING:
    from tests.vm.conftest import SmallGuest

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

GENERATIONS = 5


async def _check_disk(directory: Path) -> None:
    await run(["qemu-img", "check", "-q", os.fspath(directory / "overlay.qcow2")], timeout=30)


async def test_generations(small_guest: "SmallGuest", tmp_path: Path) -> None:
    files = SuspendFiles(tmp_path)
    start: Start = FromImage(small_guest.device)
    memory_sum, wrote = small_guest.memory_sum, small_guest.file_sum
    name = "base"
    for generation in range(GENERATIONS):
        async with small_guest.restored(tmp_path, start) as (machine, voice):
            assert await voice.ask("sum") == memory_sum
            assert await voice.ask(f"get {name}") == wrote
            assert await voice.ask("get base") == small_guest.file_sum
            memory_sum = await voice.ask(f"dirty 10 {generation}")
            name = f"file{generation}"
            wrote = await voice.ask(f"put {name} 500 {generation}")
            stats = await machine.suspend(files.device, files.diff)
            assert stats.method is SuspendMethod.DIFF
            assert stats.diff_bytes >= 10 << 20
            await machine.kill()
        await _check_disk(tmp_path)
        start = FromSuspend(files.device, files.diff)


async def test_vmm_killed_right_after_the_diff(small_guest: "SmallGuest", tmp_path: Path) -> None:
    files = SuspendFiles(tmp_path)
    async with small_guest.restored(tmp_path) as (machine, voice):
        wrote = await voice.ask("put late 3000 9")
        await machine.suspend(files.device, files.diff)
        os.kill(machine.identity.pid, signal.SIGKILL)
        await machine.wait()
    await _check_disk(tmp_path)
    start = FromSuspend(files.device, files.diff)
    async with small_guest.restored(tmp_path, start) as (_, voice):
        assert await voice.ask("get late") == wrote
        assert await voice.ask("sum") == small_guest.memory_sum


async def test_failed_suspend_is_taken_back(small_guest: "SmallGuest", tmp_path: Path) -> None:
    files = SuspendFiles(tmp_path)
    async with small_guest.restored(tmp_path) as (machine, voice):
        with pytest.raises(MachineFailed, match="taken back"):
            await machine.suspend(files.device, tmp_path / "nowhere" / "diff")
        with pytest.raises(MachineFailed, match="taken back"):
            await machine.suspend(tmp_path / "nowhere" / "device", files.diff)
        assert await machine.status() is Status.RUNNING
        assert await voice.ask("sum") == small_guest.memory_sum
        wrote = await voice.ask("put after 100 3")
        await machine.suspend(files.device, files.diff)
        await machine.kill()
    start = FromSuspend(files.device, files.diff)
    async with small_guest.restored(tmp_path, start) as (_, voice):
        assert await voice.ask("get after") == wrote


async def test_cancelled_suspend_is_taken_back(
    small_guest: "SmallGuest", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = SuspendFiles(tmp_path)
    reached = asyncio.Event()
    find = memory.find_mapping
    loop = asyncio.get_running_loop()

    def finding(pid: int, memory_file: Path) -> memory.Mapping:
        loop.call_soon_threadsafe(reached.set)
        return find(pid, memory_file)

    monkeypatch.setattr(memory, "find_mapping", finding)
    async with small_guest.restored(tmp_path) as (machine, voice):
        async with asyncio.TaskGroup() as tasks:
            suspending = tasks.create_task(machine.suspend(files.device, files.diff))
            await reached.wait()
            suspending.cancel()
        assert suspending.cancelled()
        assert await machine.status() is Status.RUNNING
        assert await voice.ask("sum") == small_guest.memory_sum


async def test_full_snapshot_of_an_untested_version(
    small_guest: "SmallGuest", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "TESTED", ("0.0.",))
    files = SuspendFiles(tmp_path)
    start: Start = FromImage(small_guest.device)
    memory_sum = small_guest.memory_sum
    for generation in range(2):
        async with small_guest.restored(tmp_path, start) as (machine, voice):
            assert await voice.ask("sum") == memory_sum
            memory_sum = await voice.ask(f"dirty 10 {generation}")
            stats = await machine.suspend(files.device, files.diff)
            assert (stats.method, stats.diff_bytes) == (SuspendMethod.FULL, 0)
            assert not files.diff.exists()
            await machine.kill()
        start = FromSuspend(files.device, None)
    async with small_guest.restored(tmp_path, start) as (machine, voice):
        assert await voice.ask("sum") == memory_sum
        await machine.kill()


async def test_zeroed_memory_takes_no_space(small_guest: "SmallGuest", tmp_path: Path) -> None:
    files = SuspendFiles(tmp_path)
    async with small_guest.restored(tmp_path) as (machine, voice):
        assert await voice.ask("zero") == "ok"  # 20 MiB that are not zero in the image
        zeroed = await voice.ask("sum")
        stats = await machine.suspend(files.device, files.diff)
        assert stats.diff_bytes < 10 << 20
        await machine.kill()
    start = FromSuspend(files.device, files.diff)
    async with small_guest.restored(tmp_path, start) as (_, voice):
        assert await voice.ask("sum") == zeroed


async def test_both_ways_to_find_private_pages_agree(
    small_guest: "SmallGuest", tmp_path: Path
) -> None:
    async with small_guest.restored(tmp_path) as (machine, voice):
        await voice.ask("dirty 10 5")
        await machine.suspend(tmp_path / "device", tmp_path / "memory.diff")
        mapping = memory.find_mapping(machine.identity.pid, small_guest.spec.memory_file)
        pagemap = os.open(f"/proc/{machine.identity.pid}/pagemap", os.O_RDONLY)
        try:
            scanned = list(memory._scan_runs(pagemap, mapping))
            read = list(memory._pagemap_runs(pagemap, mapping))
        finally:
            os.close(pagemap)
        assert scanned == read
        assert sum(count for _, count in scanned) >= (10 << 20) // memory.PAGE


async def test_commit_load_retire(small_guest: "SmallGuest", tmp_path: Path) -> None:
    files, known = SuspendFiles(tmp_path), KnownFiles(tmp_path / "known")

    async def suspended() -> tuple[QemuMachine, Manifest, End]:
        async with small_guest.restored(tmp_path) as (machine, _):
            stamp = Stamp.of(small_guest.spec.accelerator, QemuVmm(machine.vmm_version))
            image = Manifest(
                SnapshotKind.IMAGE, stamp, 512, 1, None, None, {"memory": FileRecord(1, 1, "aa")}
            )
            stats = await machine.suspend(files.device, files.diff)
            manifest = await commit_suspend(files, stats, image=image, stamp=stamp, known=known)
            return machine, manifest, await machine.kill()

    _, manifest, _ = await suspended()
    assert load(tmp_path, stamp=manifest.stamp) == manifest == await verify(tmp_path)
    assert set(manifest.files) == {"device", "overlay.qcow2", "memory.diff"}
    assert unknown(tmp_path, manifest, known) == []
    check(tmp_path, manifest, list(manifest.files), KnownFiles(tmp_path / "other"), bool)
    assert manifest.sizes.memory > 0
    assert files.start(manifest) == FromSuspend(files.device, files.diff)
    with pytest.raises(SnapshotForeign, match="build the image again"):
        load(tmp_path, stamp=replace(manifest.stamp, accelerator="another"))
    with files.diff.open("r+b") as diff:
        diff.write(b"changed")
    with pytest.raises(SnapshotBroken, match="changed"):
        await verify(tmp_path)
    retire(files)
    with pytest.raises(SnapshotBroken):
        load(tmp_path, stamp=manifest.stamp)
    assert not files.device.exists()
    assert files.overlay.exists()
