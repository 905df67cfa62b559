"""The life of a MicroVM on a real node: every way through it ends in one report, with nothing left.

The application (`lifecycle.c`) counts in its memory, so that a restart of it would show.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from microvmd.cli.waiting import poll
from microvmd.messages.node import (
    AdoptMicrovm,
    Died,
    Inventory,
    MicrovmSpec,
    ResumeFailed,
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendFailed,
    SuspendMicrovm,
    Terminated,
)
from microvmd.model.hooks import HookName, Hooks, HookSetting
from microvmd.model.microvm import Phase
from microvmd.node.microvm import STARTS
from microvmd.node.snapshot import MANIFEST, decode, encode
from tests.nodelab import (
    ALL_HOOKS,
    LIMIT,
    VERSION,
    NodeLab,
    RunningNode,
    ask,
    spec_of,
    with_hooks,
)
from tests.smalldisk import SmallDisk, small_disk

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

HOME_MIB = 192


async def started(node: RunningNode, spec: MicrovmSpec) -> str:
    """Start a MicroVM and give its address."""
    await node.start(spec)
    return (await node.reports.next(Started)).edge_address


async def suspend(node: RunningNode, spec: MicrovmSpec) -> None:
    await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))


async def gone(node: RunningNode, spec: MicrovmSpec) -> None:
    """The report that it is terminated, and the proof."""
    await node.terminate(spec)
    report = await node.reports.next(Terminated)
    assert report == Terminated(spec.microvm_id, spec.generation)
    await nothing_left(node, spec)


async def nothing_left(node: RunningNode, spec: MicrovmSpec) -> None:
    assert not node.equipment.paths.microvm(spec.microvm_id).directory.exists()
    assert node.pid_of(spec) is None
    assert node.reports.queue.empty()


def inventory(*specs: MicrovmSpec) -> Inventory:
    return Inventory(frozenset(spec.microvm_id for spec in specs), frozenset({VERSION}))


async def test_run_suspend_resume_terminate(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of(ALL_HOOKS)
        files = node.equipment.paths.microvm(spec.microvm_id)
        address = await started(node, spec)
        assert [await ask(address, "count") for _ in range(2)] == ["1", "2"]
        assert f'run {{"microvmId":"{spec.microvm_id}"' in await ask(address, "hooks")

        await suspend(node, spec)
        suspended = await node.reports.next(Suspended)
        assert {"guest.suspend_hook", "save", "total"} <= set(suspended.timings)
        assert files.suspended
        assert node.pid_of(spec) is None, "SUSPENDED means that there is no VMM"

        again = replace(spec, generation=2)
        await node.agent.send(ResumeMicrovm(again))
        address = (await node.reports.next(Started)).edge_address
        assert not files.suspended, "the disk runs ahead of the snapshot now"
        assert await ask(address, "count") == "3"
        names = [line.split()[0] for line in (await ask(address, "hooks")).splitlines()]
        assert names == ["ready", "ready", "run", "suspend", "resume"]
        await gone(node, again)


async def test_an_application_that_ends_takes_its_microvm_along(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of()
        address = await started(node, spec)
        await ask(address, "say/first")
        await ask(address, "exit/7")
        died = await node.reports.next(Died)
        assert died.reason == "Main process exited with code 7."
        assert (await node.log_of(spec))[-2:] == ["first", "leaving"], "its last words are kept"
        await nothing_left(node, spec)


async def test_a_vmm_that_is_killed(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of()
        await started(node, spec)
        pid = node.pid_of(spec)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        died = await node.reports.next(Died)
        assert died.reason == "The VMM ended unexpectedly (killed by SIGKILL)."
        await nothing_left(node, spec)


async def test_a_run_hook_that_fails(node_lab: NodeLab) -> None:
    deaf = Hooks(9001, {HookName.READY: HookSetting(True), HookName.RUN: HookSetting(True)})
    async with node_lab.node() as node:
        spec = spec_of(deaf)
        await node.start(spec)
        died = await node.reports.next(Died)
        assert died.reason.startswith("Run lifecycle hook could not be reached.")
        await nothing_left(node, spec)


async def test_a_suspend_hook_that_fails_ends_the_microvm(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of(with_hooks(HookName.SUSPEND))
        await ask(await started(node, spec), "fail/suspend")
        await suspend(node, spec)
        died = await node.reports.next(Died)
        assert died.reason.startswith("Suspend lifecycle hook returned HTTP status 500.")
        await nothing_left(node, spec)


async def test_a_resume_hook_that_fails_leaves_it_suspended(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of(with_hooks(HookName.RESUME))
        await ask(await started(node, spec), "fail/resume")
        await suspend(node, spec)
        await node.reports.next(Suspended)
        for generation in (2, 3):
            again = replace(spec, generation=generation)
            await node.agent.send(ResumeMicrovm(again))
            failed = await node.reports.next(ResumeFailed)
            assert failed.reason.startswith("Resume lifecycle hook returned HTTP status 500.")
            assert node.equipment.paths.microvm(spec.microvm_id).suspended
        await gone(node, again)


async def test_a_suspend_that_fails_is_taken_back(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of()
        files = node.equipment.paths.microvm(spec.microvm_id)
        address = await started(node, spec)
        assert await ask(address, "count") == "1"
        in_the_way = files.directory / "manifest.json.new"
        in_the_way.mkdir()
        await suspend(node, spec)
        failed = await node.reports.next(SuspendFailed)
        assert failed.reason.startswith("Suspend failed: ")
        assert failed.edge_address == address
        assert await ask(address, "count") == "2"
        assert not files.suspended

        in_the_way.rmdir()
        await suspend(node, spec)
        await node.reports.next(Suspended)
        await gone(node, spec)


async def test_a_snapshot_that_is_damaged_is_no_reason_to_lose_it(node_lab: NodeLab) -> None:
    async with node_lab.node() as node:
        spec = spec_of()
        files = node.equipment.paths.microvm(spec.microvm_id)
        await started(node, spec)
        await suspend(node, spec)
        await node.reports.next(Suspended)
        aside = files.directory / "aside"
        files.suspend.diff.rename(aside)
        again = replace(spec, generation=2)
        await node.agent.send(ResumeMicrovm(again))
        assert "missing" in (await node.reports.next(ResumeFailed)).reason
        aside.rename(files.suspend.diff)
        with flipped_bit(files.suspend.device):
            again = replace(spec, generation=3)
            await node.agent.send(ResumeMicrovm(again))
            assert "device of the snapshot was changed" in (
                (await node.reports.next(ResumeFailed)).reason
            )
        manifest = files.directory / MANIFEST
        made = manifest.read_bytes()
        stamp = replace(decode(made).stamp, vmm_version="0.9")
        manifest.write_bytes(encode(replace(decode(made), stamp=stamp)))
        again = replace(spec, generation=4)
        await node.agent.send(ResumeMicrovm(again))
        assert f"made under {stamp}; this node" in (await node.reports.next(ResumeFailed)).reason
        manifest.write_bytes(made)
        again = replace(spec, generation=5)
        await node.agent.send(ResumeMicrovm(again))
        assert await ask((await node.reports.next(Started)).edge_address, "count") == "1"
        await gone(node, again)


@contextlib.contextmanager
def flipped_bit(path: Path) -> Iterator[None]:
    """One bit in the middle of a file, and back."""
    size = path.stat().st_size

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(size // 2)
            byte = file.read(1)[0]
            file.seek(size // 2)
            file.write(bytes([byte ^ 4]))

    flip()
    yield
    flip()


@contextlib.contextmanager
def small_home(lab: NodeLab, directory: Path) -> Iterator[SmallDisk]:
    """What the node has of its MicroVMs is on a disk of its own, which a test can fill."""
    home = lab.directory / "root" / "microvms"
    with small_disk(directory / "disk", HOME_MIB) as disk:
        subprocess.run(["mount", "--bind", disk.mount, home], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", home], check=True)


async def test_a_suspend_that_finds_no_room_is_taken_back(
    node_lab: NodeLab, tmp_path: Path
) -> None:
    spec = spec_of()
    with small_home(node_lab, tmp_path) as disk:
        async with node_lab.node() as node:
            address = await started(node, spec)
            assert await ask(address, "count") == "1"
            with disk.full():
                await suspend(node, spec)
                failed = await node.reports.next(SuspendFailed)
                assert "No space left on device" in failed.reason
                assert await ask(address, "count") == "2"
            await suspend(node, spec)
            await node.reports.next(Suspended)
            again = replace(spec, generation=2)
            await node.agent.send(ResumeMicrovm(again))
            assert await ask((await node.reports.next(Started)).edge_address, "count") == "3"
            await gone(node, again)


async def test_a_restart_of_the_node_ends_no_microvm(node_lab: NodeLab) -> None:
    spec = spec_of()
    async with node_lab.node() as node:
        address = await started(node, spec)
        assert await ask(address, "count") == "1"
        pid = node.pid_of(spec)
    assert await ask(address, "count") == "2", "it takes requests while no node is there"
    async with node_lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await node.agent.send(AdoptMicrovm(spec, Phase.RUNNING))
        assert (await node.reports.next(Started)).edge_address == address
        assert node.pid_of(spec) == pid
        assert await ask(address, "count") == "3"
        await ask(address, "say/heard")
        await suspend(node, spec)
        await node.reports.next(Suspended)
        assert "heard" in await node.log_of(spec)
        await gone(node, spec)


async def test_a_restart_in_the_middle_of_a_resume_loses_nothing(node_lab: NodeLab) -> None:
    hooks = Hooks(9000, {HookName.READY: HookSetting(True), HookName.RESUME: HookSetting(True, 5)})
    spec = spec_of(hooks)
    again = replace(spec, generation=2)
    async with node_lab.node() as node:
        address = await started(node, spec)
        await ask(address, "count")
        await ask(address, "hang/resume")
        await suspend(node, spec)
        await node.reports.next(Suspended)
        await node.agent.send(ResumeMicrovm(again))
        await asyncio.to_thread(poll, lambda: node.pid_of(spec), limit=LIMIT)
        async with asyncio.timeout(LIMIT):
            # Who asks before the guest was told that it is restored loses the connection.
            called = ""
            while "resume" not in called:
                with suppress(httpx.TransportError):
                    called = await ask(node.address_of(spec), "hooks")
        # The snapshot is burnt, the hook is under way: now the node stops.
        assert not node.equipment.paths.microvm(spec.microvm_id).suspended
    async with node_lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await node.agent.send(AdoptMicrovm(again, Phase.RESUMING))
        failed = await node.reports.next(ResumeFailed)
        assert failed.reason.startswith("Resume lifecycle hook timed out.")
        assert node.equipment.paths.microvm(spec.microvm_id).suspended
        await gone(node, again)


async def test_a_restart_in_the_middle_of_a_start(node_lab: NodeLab) -> None:
    """The start begins anew: there is one VMM, and nothing of the first is left."""
    spec = spec_of(with_hooks(HookName.RUN))
    async with node_lab.node() as node:
        first = await started(node, spec)
        before = node.equipment.vmm_of(node.equipment.paths.microvm(spec.microvm_id))
        assert before is not None
        assert await ask(first, "count") == "1"
    # As after a node that was killed before it could tell that the MicroVM runs.
    async with node_lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await node.agent.send(AdoptMicrovm(spec, Phase.PENDING))
        address = (await node.reports.next(Started)).edge_address
        assert node.pid_of(spec) is not None
        assert not before.identity.alive()
        assert await ask(address, "count") == "1", "it is a new clone of the image"
        called = (await ask(address, "hooks")).splitlines()
        assert [line.split()[0] for line in called].count("run") == 1
        await gone(node, spec)


async def test_a_start_that_no_node_was_told_of(node_lab: NodeLab) -> None:
    spec = spec_of()
    async with node_lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await node.agent.send(AdoptMicrovm(spec, Phase.PENDING))
        assert await ask((await node.reports.next(Started)).edge_address, "count") == "1"
        await gone(node, spec)


async def test_what_runs_outlives_a_change_of_the_devices(node_lab: NodeLab) -> None:
    """As with a version of microvmd that gives its machines others: only a restore needs them."""
    spec = spec_of()
    suspended = replace(spec, generation=2)
    async with node_lab.node() as node:
        await ask(await started(node, spec), "count")
        manifest = node.equipment.paths.image(spec.version).directory / MANIFEST
    made = manifest.read_bytes()
    image = decode(made)
    manifest.write_bytes(encode(replace(image, stamp=replace(image.stamp, devices="of-before"))))
    try:
        async with node_lab.node() as node:
            await node.agent.sweep(inventory(spec))
            await node.agent.send(AdoptMicrovm(spec, Phase.RUNNING))
            address = (await node.reports.next(Started)).edge_address
            assert await ask(address, "count") == "2"
            await suspend(node, spec)
            await node.reports.next(Suspended)
            await node.agent.send(ResumeMicrovm(suspended))
            assert "other devices (of-before)" in (await node.reports.next(ResumeFailed)).reason
            await gone(node, suspended)
    finally:
        manifest.write_bytes(made)


async def test_a_start_that_is_interrupted_each_time_is_given_up(node_lab: NodeLab) -> None:
    spec = spec_of()
    async with node_lab.node() as node:
        files = node.equipment.paths.microvm(spec.microvm_id)
        files.directory.mkdir()
        files.attempts.write_text(str(STARTS))
        await node.agent.send(AdoptMicrovm(spec, Phase.PENDING))
        died = await node.reports.next(Died)
        assert died.reason == "The MicroVM was lost: 5 starts were interrupted by a restart."
        await nothing_left(node, spec)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_restart_in_the_middle_of_a_suspend(stored: bool, node_lab: NodeLab) -> None:
    spec = spec_of()
    async with node_lab.node() as node:
        address = await started(node, spec)
        if stored:
            (node.equipment.paths.microvm(spec.microvm_id).directory / "manifest.json").touch()
    async with node_lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await node.agent.send(AdoptMicrovm(spec, Phase.SUSPENDING))
        if stored:
            await node.reports.next(Suspended)
            assert node.pid_of(spec) is None, "its snapshot counts: it must not run on beside it"
        else:
            failed = await node.reports.next(SuspendFailed)
            assert failed.reason == "The suspend was interrupted by a restart."
            assert await ask(address, "count") == "1"
        await gone(node, spec)


async def test_a_vmm_that_ended_while_no_node_was_there(node_lab: NodeLab) -> None:
    spec = spec_of()
    async with node_lab.node() as node:
        await started(node, spec)
        pid = node.pid_of(spec)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    # Whoever is first reaps it: we, or the loop, which still holds what the node detached.
    with contextlib.suppress(ChildProcessError):
        await asyncio.to_thread(os.waitpid, pid, 0)
    async with node_lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await node.agent.send(AdoptMicrovm(spec, Phase.RUNNING))
        died = await node.reports.next(Died)
        assert died.reason.startswith("The MicroVM was lost")
        await nothing_left(node, spec)
