"""VMMs that wait: a run takes one, nobody gets one twice, and none is left behind.

The kernel is asked which VMMs there are: by the records that lie in their directories, and by their
control groups.
"""

import asyncio
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.cli.waiting import poll
from microvmd.messages.node import (
    AdoptMicrovm,
    DeleteVersion,
    Inventory,
    MicrovmSpec,
    ResumeMicrovm,
    RetireVersion,
    Started,
    StartMicrovm,
    Suspended,
    SuspendMicrovm,
    Terminated,
    VersionDeleted,
    VersionKey,
)
from microvmd.model.egress import NOTHING
from microvmd.model.microvm import Phase
from microvmd.model.pool import PoolRules
from microvmd.node.bring_up import VmmRecord
from microvmd.node.cgroup import find_hierarchies, names
from microvmd.node.timings import CLAIM
from tests.nodelab import ALL_HOOKS, LIMIT, VERSION, NodeLab, RunningNode, ask, spec_of

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

MOST = 3
RULES = PoolRules(memory_mib=4096, most=MOST, keep_s=3600, burst_s=3600, spare_mib=0)

STAY = 3.0


@pytest.fixture
def pooled(node_lab: NodeLab) -> NodeLab:
    """Nodes on which as many VMMs wait as MicroVMs have been started, up to MOST."""
    return replace(node_lab, pool=RULES)


@pytest.fixture(params=[False, True], ids=["empty", "restored"])
def either(request: pytest.FixtureRequest, node_lab: NodeLab) -> NodeLab:
    """The same, with guests that wait in them and without."""
    return replace(node_lab, pool=replace(RULES, restored=request.param))


def records(node: RunningNode) -> list[VmmRecord]:
    """Of what waits now."""
    found = node.equipment.paths.tmp.glob("waiting-*/vmm.json")
    read = [VmmRecord.read(path) for path in sorted(found)]
    return [record for record in read if record is not None and record.identity.alive()]


def pids(node: RunningNode) -> set[int]:
    return {record.identity.pid for record in records(node)}


def groups(lab: NodeLab) -> set[str]:
    return names(find_hierarchies(), lab.lane.group)


async def waits(node: RunningNode, count: int) -> set[int]:
    """Until so many wait; their pids."""

    def ask_kernel() -> set[int] | None:
        found = pids(node)
        return found if len(found) == count and node.agent.waiting == count else None

    found = await asyncio.to_thread(poll, ask_kernel, limit=LIMIT)
    assert found is not None, f"{node.agent.waiting} wait, not {count}"
    return found


async def started(node: RunningNode, spec: MicrovmSpec) -> Started:
    await node.start(spec)
    return await node.reports.next(Started)


async def monotonic(report: Started) -> float:
    """Seconds of the guest's monotonic clock."""
    return int((await ask(report.edge_address, "clocks")).split()[1]) / 1e9


async def gone(node: RunningNode, *specs: MicrovmSpec) -> None:
    for spec in specs:
        await node.terminate(spec)
        assert await node.reports.next(Terminated) == Terminated(spec.microvm_id, spec.generation)


async def test_a_run_takes_the_vmm_that_waits(either: NodeLab) -> None:
    first, spec = spec_of(), spec_of(ALL_HOOKS, egress=NOTHING)
    async with either.node() as node:
        files = node.equipment.paths.microvm(spec.microvm_id)
        report = await started(node, first)
        assert CLAIM not in report.timings, "nobody had asked before"
        (waiting,) = await waits(node, 1)
        (record,) = records(node)
        report = await started(node, spec)
        assert {CLAIM, "vmm", "guest.restored"} <= report.timings.keys()
        assert node.pid_of(spec) == waiting
        assert VmmRecord.read(files.identity) == record, "the record came with the directory"
        assert node.equipment.jails.owner_of(record.jail) == spec.microvm_id
        task = node.agent.task_of(spec.microvm_id)
        assert task is not None
        assert task.network is not None
        assert task.network.egress == NOTHING
        assert await ask(report.edge_address, "count") == "1"
        assert f'"microvmId":"{spec.microvm_id}"' in await ask(report.edge_address, "hooks")

        await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))
        await node.reports.next(Suspended)
        assert node.pid_of(spec) is None
        again = replace(spec, generation=2)
        await node.agent.send(ResumeMicrovm(again))
        report = await node.reports.next(Started)
        assert CLAIM not in report.timings, "what waits has another disk"
        assert await ask(report.edge_address, "count") == "2"
        await waits(node, 2)
        await gone(node, first, again)
    assert not groups(either)


async def test_whether_the_clock_of_a_guest_stands_still_while_it_waits(node_lab: NodeLab) -> None:
    first, spec = spec_of(), spec_of()
    stops = (await node_lab.vmm()).stops_clocks
    pooled = replace(node_lab, pool=replace(RULES, restored=True))
    async with pooled.node() as node:
        before = await monotonic(await started(node, first))
        await waits(node, 1)
        await asyncio.sleep(STAY)  # the time by which its clock could go on
        begin = time.monotonic()
        report = await started(node, spec)
        clock = await monotonic(report)
        assert CLAIM in report.timings
        assert (clock - before <= time.monotonic() - begin) is stops
        await gone(node, first, spec)
    assert not groups(pooled)


async def test_many_at_once_share_nothing(either: NodeLab) -> None:
    specs = [spec_of() for _ in range(2 * MOST)]
    before = [spec_of() for _ in range(MOST)]
    async with either.node() as node:
        for spec in before:
            await started(node, spec)
        waiting = await waits(node, MOST)
        for spec in specs:
            await node.agent.send(StartMicrovm(spec))
        reports = [await node.reports.next(Started) for _ in specs]
        claims = [report for report in reports if CLAIM in report.timings]
        assert len(claims) >= MOST
        got = {node.pid_of(spec) for spec in specs}
        assert len(got) == len(specs), "each has a VMM of its own"
        assert waiting <= got, "and all that waited were taken"
        assert len({report.edge_address for report in reports}) == len(specs)
        for number, report in enumerate(reports):
            assert await ask(report.edge_address, f"put/{number}") is not None
        # That no two of them have the same identity is proven by each start (node/uniqueness.py).
        assert [await ask(report.edge_address, "count") for report in reports] == ["1"] * len(specs)
        await gone(node, *before, *specs)
    assert not groups(either)


async def test_one_that_is_killed_is_replaced_and_given_to_nobody(pooled: NodeLab) -> None:
    first, second, third = spec_of(), spec_of(), spec_of()
    async with pooled.node() as node:
        await started(node, first)
        (waiting,) = await waits(node, 1)
        os.kill(waiting, signal.SIGKILL)

        def other() -> set[int] | None:
            return pids(node) - {waiting} or None

        (fresh,) = await asyncio.to_thread(poll, other, limit=LIMIT) or set()
        await waits(node, 1)
        await started(node, second)
        assert node.pid_of(second) == fresh

        for pid in await waits(node, 2):
            os.kill(pid, signal.SIGKILL)
        # At once: the node may not have seen yet that they ended.
        report = await started(node, third)
        assert await ask(report.edge_address, "count") == "1"
        await gone(node, first, second, third)
    assert not groups(pooled)


async def test_a_claim_that_fails_is_no_failed_run(pooled: NodeLab) -> None:
    first, spec = spec_of(), spec_of()
    async with pooled.node() as node:
        await started(node, first)
        (waiting,) = await waits(node, 1)
        (directory,) = node.equipment.paths.tmp.glob("waiting-*")
        shutil.rmtree(directory)
        report = await started(node, spec)
        assert CLAIM not in report.timings
        assert node.pid_of(spec) != waiting
        assert await ask(report.edge_address, "count") == "1"
        await gone(node, first, spec)
    assert not groups(pooled)


async def test_nothing_waits_for_a_version_that_is_retired_or_deleted(pooled: NodeLab) -> None:
    version = VersionKey(VERSION.account, VERSION.image_name, "9.0")
    spec = replace(spec_of(), version=version)
    async with pooled.node() as node:
        paths = node.equipment.paths
        made = paths.image(VERSION).directory
        shutil.copytree(made, paths.image(version).directory, copy_function=os.link)
        report = await started(node, spec)
        await waits(node, 1)
        await node.agent.send(RetireVersion(version))
        await waits(node, 0)
        again = replace(spec_of(), version=version)
        assert CLAIM not in (await started(node, again)).timings
        await waits(node, 1)
        await gone(node, again)
        await node.agent.send(DeleteVersion(version))
        assert await node.reports.next(VersionDeleted) == VersionDeleted(version)
        assert node.agent.waiting == 0
        assert not [*paths.tmp.iterdir()]
        assert groups(pooled) == {spec.microvm_id}
        assert await ask(report.edge_address, "count") == "1", "who runs goes on"
        await gone(node, spec)


async def test_what_waits_is_ended_with_the_node_and_what_was_claimed_is_adopted(
    either: NodeLab,
) -> None:
    first, spec = spec_of(), spec_of()
    async with either.node() as node:
        await started(node, first)
        (waiting,) = await waits(node, 1)
        report = await started(node, spec)
        await waits(node, 2)
        before = records(node)
        tmp = node.equipment.paths.tmp
    assert not any(record.identity.alive() for record in before)
    assert not [*tmp.iterdir()]
    assert await ask(report.edge_address, "count") == "1", "it takes requests without a node"
    async with either.node() as node:
        await node.agent.sweep(
            Inventory(frozenset({first.microvm_id, spec.microvm_id}), frozenset({VERSION}))
        )
        for one in (first, spec):
            await node.agent.send(AdoptMicrovm(one, Phase.RUNNING))
            await node.reports.next(Started)
        assert node.pid_of(spec) == waiting
        assert await ask(report.edge_address, "count") == "2"
        await gone(node, first, spec)
    assert not groups(either)


async def test_who_is_told_twice_to_end_leaves_nothing_behind(pooled: NodeLab) -> None:
    """A service that goes ends what waits, and SIGTERM cancels that half way."""
    specs = [spec_of() for _ in range(MOST)]
    ready, leave = asyncio.Event(), asyncio.Event()
    directories: list[Path] = []

    async def live() -> None:
        async with pooled.node() as node:
            for spec in specs:
                await started(node, spec)
            await waits(node, MOST)
            directories.extend(node.equipment.paths.tmp.iterdir())
            await gone(node, *specs)
            ready.set()
            await leave.wait()

    def one_is_gone() -> bool:
        return len([path for path in directories if path.exists()]) < MOST

    async with asyncio.TaskGroup() as tasks:
        living = tasks.create_task(live())
        await ready.wait()
        assert len(directories) == MOST
        leave.set()
        while not one_is_gone() and not living.done():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0)  # so that it is still ending the others
        living.cancel()
    assert not any(path.exists() for path in directories)
    assert not groups(pooled)


async def test_what_a_killed_node_left_waiting_is_swept(pooled: NodeLab) -> None:
    """Such a node frees nothing: a MicroVM in the place of one that waits shows the same."""
    spec = spec_of()
    async with pooled.node() as node:
        await started(node, spec)
        pid = node.pid_of(spec)
        paths = node.equipment.paths
        record = VmmRecord.read(paths.microvm(spec.microvm_id).identity)
    assert record is not None
    assert record.identity.alive()
    paths.microvm(spec.microvm_id).directory.rename(paths.tmp / "waiting-0")
    async with pooled.node() as node:
        await node.agent.sweep(Inventory(frozenset(), frozenset({VERSION})))
        assert not record.identity.alive(), pid
        assert not [*paths.tmp.iterdir()]
    assert not groups(pooled)
