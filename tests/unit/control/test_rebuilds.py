"""Runs whose snapshot does not fit their node: one build, and all who wait for it."""

from pathlib import Path

import pytest

from microvmd.control.admission import Admission
from microvmd.control.capacity import Capacity
from microvmd.control.event_rows import EventQuery
from microvmd.control.images import FULL
from microvmd.control.reconcile import adopt_all, inventory
from microvmd.messages.node import (
    AdoptMicrovm,
    BuildFailed,
    BuildStarted,
    BuildSucceeded,
    BuildVersion,
    Died,
    FreeSnapshot,
    Started,
    StartMicrovm,
    Suspended,
    Terminated,
    Unfit,
    VersionKey,
)
from microvmd.model.event import Kind
from microvmd.model.image import BuildState, SnapshotSizes, Version, VersionState, VersionStatus
from microvmd.model.microvm import MicroVm, Phase, Told
from microvmd.model.quota import Use
from microvmd.model.rebuild import INTERRUPTED
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, Plane, PlayedMeter, plane

pytestmark = pytest.mark.anyio

RUN = {"imageIdentifier": IMAGE_ARN}
FIRST = VersionKey(ACCOUNT, "app", "1.0")
SIZES = SnapshotSizes(10, 20, 30)


async def run(p: Plane) -> MicroVm:
    """A run that the node was told of."""
    microvm = await p.microvms.run(ACCOUNT, RUN)
    assert isinstance(p.node.commands.pop(), StartMicrovm)
    return microvm


async def unfit(p: Plane, microvm: MicroVm) -> None:
    await p.rebuilds.unfit(Unfit(microvm.microvm_id, microvm.generation, "another QEMU"))


async def of(p: Plane, microvm: MicroVm) -> MicroVm:
    return await p.microvms.get(ACCOUNT, microvm.microvm_id)


async def version_of(p: Plane) -> Version:
    return await p.images.version(ACCOUNT, IMAGE_ARN, "1.0")


async def rebuilding(p: Plane) -> tuple[MicroVm, BuildVersion]:
    """One run that waits for the build."""
    await p.built()
    microvm = await run(p)
    await unfit(p, microvm)
    command = p.node.commands.pop()
    assert isinstance(command, BuildVersion)
    return microvm, command


async def ends(p: Plane, command: BuildVersion, reason: str | None = None) -> None:
    """The build succeeds, or fails for this reason."""
    await p.images.report(BuildStarted(command.version, command.build_id))
    if reason is None:
        await p.images.report(BuildSucceeded(command.version, command.build_id, SIZES))
    else:
        await p.images.report(BuildFailed(command.version, command.build_id, reason))
    await p.rebuilds.settle(command.version)


async def goes(p: Plane, microvm: MicroVm) -> None:
    """It is terminated, and its node has done it."""
    await p.microvms.terminate(ACCOUNT, microvm.microvm_id)
    generation = (await of(p, microvm)).generation
    p.node.commands.clear()
    await p.microvms.report(Terminated(microvm.microvm_id, generation))
    await p.rebuilds.left(microvm.microvm_id)


async def test_two_runs_make_one_build_and_go_on_when_it_is_made(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        first, command = await rebuilding(p)
        second = await run(p)
        await unfit(p, second)
        assert p.node.commands == [], "it waits for the same"
        assert command.source == FIRST
        assert command.version == VersionKey(ACCOUNT, "app", "1.0", command.build_id)
        assert {(await of(p, one)).phase for one in (first, second)} == {Phase.PENDING}
        found = await version_of(p)
        assert [build.state for build in found.builds] == [
            BuildState.SUCCESSFUL,
            BuildState.PENDING,
        ]
        assert found.runnable
        await ends(p, command)
        *started, freed = p.node.commands
        assert freed == FreeSnapshot(FIRST), "nobody was started from it"
        for microvm, start in zip((first, second), started, strict=True):
            assert isinstance(start, StartMicrovm)
            spec = start.spec
            assert (spec.microvm_id, spec.generation) == (microvm.microvm_id, 2)
            assert spec.version == command.version
        await p.microvms.report(Started(first.microvm_id, 2, "10.200.0.2"))
        running = await of(p, first)
        assert (running.phase, running.image_bytes) == (Phase.RUNNING, 40)
        p.node.commands.clear()
        assert (await p.microvms.run(ACCOUNT, RUN)).snapshot == command.build_id


async def test_what_waits_is_told_why_it_ends_and_nothing_is_tried_for_each(
    tmp_path: Path,
) -> None:
    async with plane(tmp_path) as p:
        first, command = await rebuilding(p)
        await ends(p, command, "The application ended.")
        ended = await p.store.run(lambda tx: tx.microvm(first.microvm_id))
        assert ended is not None
        assert ended.phase is Phase.TERMINATED
        assert ended.state_reason is not None
        assert ended.state_reason.endswith("building it again failed: The application ended.")
        found = await version_of(p)
        assert (found.state, found.rebuilds[0].reason) == (
            VersionState.SUCCESSFUL,
            "The application ended.",
        )
        second = await run(p)
        await unfit(p, second)
        assert p.node.commands == []
        late = await p.store.run(lambda tx: tx.microvm(second.microvm_id))
        assert late is not None
        assert "not tried again for 60 s" in str(late.state_reason)
        await p.images.set_status(ACCOUNT, IMAGE_ARN, "1.0", VersionStatus.ACTIVE)
        p.clock.now += 1
        await unfit(p, await run(p))
        assert p.node.taken() == ["BuildVersion"], "it was asked for again"


async def test_the_old_snapshot_stays_while_anything_needs_it(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        before = await run(p)
        await p.microvms.report(Started(before.microvm_id, 1, "10.200.0.2"))
        await p.microvms.suspend(ACCOUNT, before.microvm_id)
        await p.microvms.report(Suspended(before.microvm_id, 1))
        waiting = await run(p)
        p.node.commands.clear()
        await unfit(p, waiting)
        command = p.node.commands.pop()
        assert isinstance(command, BuildVersion)
        await ends(p, command)
        assert p.node.taken() == ["StartMicrovm"], "the suspended one is made of the old one"
        kept = await inventory(p.images, p.microvms)
        assert kept.versions == {FIRST, command.version}
        await goes(p, before)
        assert p.node.commands == [FreeSnapshot(FIRST)]
        await goes(p, waiting)
        assert p.node.commands == [], "the one in use stays"
        assert (await inventory(p.images, p.microvms)).versions == {command.version}


async def test_a_node_that_is_what_it_was_uses_what_it_had(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        before = await run(p)
        await p.microvms.report(Started(before.microvm_id, 1, "10.200.0.2"))
        waiting = await run(p)
        await unfit(p, waiting)
        command = p.node.commands.pop()
        assert isinstance(command, BuildVersion)
        await ends(p, command)
        await goes(p, waiting)
        back = await run(p)
        assert back.snapshot == command.build_id
        await p.rebuilds.unfit(Unfit(back.microvm_id, 1, "the QEMU of before", ""))
        start, freed = p.node.commands
        assert isinstance(start, StartMicrovm)
        assert start.spec.version == FIRST
        assert freed == FreeSnapshot(command.version), "of which there is no MicroVM"
        p.node.commands.clear()
        assert (await run(p)).snapshot == ""
        assert (await inventory(p.images, p.microvms)).versions == {FIRST}
        await p.rebuilds.settle(FIRST)
        assert p.node.commands == [], "said once"


async def test_a_start_that_the_build_overtook_is_begun_anew(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        slow, quick = await run(p), await run(p)
        await unfit(p, quick)
        command = p.node.commands.pop()
        assert isinstance(command, BuildVersion)
        await ends(p, command)
        assert p.node.taken() == ["StartMicrovm"], "the other has not told yet what it found"
        await unfit(p, slow)
        start, freed = p.node.commands
        assert isinstance(start, StartMicrovm)
        assert (start.spec.microvm_id, start.spec.version) == (slow.microvm_id, command.version)
        assert freed == FreeSnapshot(FIRST)


async def test_it_is_started_again_once(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        microvm, command = await rebuilding(p)
        await ends(p, command)
        p.node.commands.clear()
        await p.microvms.start_again(microvm.microvm_id, Told(1, snapshot=command.build_id))
        assert p.node.commands == []
        assert (await of(p, microvm)).generation == 2


async def test_late_and_repeated_words_change_nothing(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        microvm, command = await rebuilding(p)
        await unfit(p, microvm)
        await p.rebuilds.settle(command.version)
        assert p.node.commands == []
        await ends(p, command)
        p.node.commands.clear()
        await unfit(p, microvm)
        await p.rebuilds.unfit(Unfit("microvm-unknown", 1, "why"))
        assert p.node.commands == [], "of a generation that is over"


async def test_a_restart_in_the_middle_begins_it_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        microvm, command = await rebuilding(p)
        await p.images.report(BuildStarted(command.version, command.build_id))
    async with plane(tmp_path) as p:
        kept = await inventory(p.images, p.microvms)
        assert kept.versions == {FIRST}, "what was half-made is swept"
        build = (await version_of(p)).rebuilds[0]
        assert (build.state, build.reason) == (BuildState.FAILED, INTERRUPTED)
        await adopt_all(p.microvms, p.node)
        (adopt,) = p.node.commands
        assert isinstance(adopt, AdoptMicrovm)
        p.node.commands.clear()
        await unfit(p, microvm)
        (again,) = p.node.commands
        assert isinstance(again, BuildVersion)
        assert again.build_id != command.build_id
        await p.images.report(BuildSucceeded(command.version, command.build_id, SIZES))
        assert (await version_of(p)).snapshot == "", "a late report of the lost one"


async def test_a_deletion_ends_it(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        microvm, command = await rebuilding(p)
        await p.images.update(ACCOUNT, {**CREATE, "imageIdentifier": IMAGE_ARN})
        await p.play_build()
        await goes(p, microvm)
        p.node.commands.clear()
        doomed = await p.images.delete_version(ACCOUNT, IMAGE_ARN, "1.0")
        assert doomed.state is VersionState.DELETING
        assert doomed.rebuilds[0].state is BuildState.FAILED
        assert p.node.taken() == ["DeleteVersion"]
        await p.images.report(BuildFailed(command.version, command.build_id, "cancelled"))
        await p.rebuilds.settle(command.version)
        assert p.node.commands == []


async def test_it_takes_room_like_any_build(tmp_path: Path) -> None:
    meter = PlayedMeter()
    admission = Admission(capacity=Capacity(meter=meter))
    async with plane(tmp_path, admission=admission) as p:
        _, command = await rebuilding(p)
        assert await p.store.run(lambda tx: tx.use.of(ACCOUNT)) == Use(4096, 1, 1)
        assert await p.store.run(lambda tx: tx.use.building()) == [2048]
        await ends(p, command)
        assert await p.store.run(lambda tx: tx.use.building()) == []


async def test_a_full_machine_fails_it_at_once(tmp_path: Path) -> None:
    meter = PlayedMeter()
    admission = Admission(capacity=Capacity(meter=meter))
    async with plane(tmp_path, admission=admission) as p:
        await p.built()
        microvm = await run(p)
        meter.available_mib = 0
        await unfit(p, microvm)
        assert p.node.commands == []
        ended = await p.store.run(lambda tx: tx.microvm(microvm.microvm_id))
        assert ended is not None
        assert ended.phase is Phase.TERMINATED
        assert FULL in str(ended.state_reason)
        assert (await version_of(p)).rebuilds[0].reason == FULL


async def test_its_states_are_events(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        _, command = await rebuilding(p)
        await ends(p, command, "why")
        query = EventQuery(ACCOUNT, Kind.BUILD)
        found = await p.store.run(lambda tx: tx.events.page(query, limit=9))
        assert [(one.change.before, one.change.after, one.change.reason) for one in found] == [
            (None, "PENDING", None),
            ("PENDING", "IN_PROGRESS", None),
            ("IN_PROGRESS", "FAILED", "why"),
        ]
        assert {one.change.detail["buildId"] for one in found} == {command.build_id}


async def test_who_is_terminated_while_it_waits_stays_so(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        microvm, command = await rebuilding(p)
        await goes(p, microvm)
        await ends(p, command)
        assert p.node.commands == [FreeSnapshot(FIRST)]
        await p.microvms.report(Died(microvm.microvm_id, 1, "late"))
        ended = await p.store.run(lambda tx: tx.microvm(microvm.microvm_id))
        assert ended is not None
        assert ended.state_reason == "Success."
