"""The watch over idle time and durations, and what a restart asks of the node."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from microvmd.control.reconcile import adopt_all, inventory, watch
from microvmd.messages.node import AdoptMicrovm, Started, Suspended, TerminateMicrovm
from microvmd.model.microvm import Phase
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, plane

pytestmark = pytest.mark.anyio

POLICY = {
    "maxIdleDurationSeconds": 60,
    "suspendedDurationSeconds": 300,
    "autoResumeEnabled": True,
}
RUN = {"imageIdentifier": IMAGE_ARN, "idlePolicy": POLICY}


async def test_watch_suspends_when_bytes_stop(tmp_path: Path) -> None:
    async with plane(tmp_path) as p, asyncio.timeout(10):
        await p.built()
        vm = await p.microvms.run(ACCOUNT, RUN)
        await p.microvms.report(Started(vm.microvm_id, 1, "10.200.0.2"))
        p.node.commands.clear()
        counts = {vm.endpoint_id: 100}
        looks = 0

        async def activity() -> Mapping[str, int]:
            nonlocal looks
            looks += 1
            if looks <= 2:
                p.clock.now += 50  # bytes go on: 100 s pass, still awake
                counts[vm.endpoint_id] += 1
            else:
                p.clock.now += 61
            return dict(counts)

        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch(p.microvms, activity, p.clock))
            while (await p.microvms.get(ACCOUNT, vm.microvm_id)).phase is not Phase.SUSPENDING:
                p.microvms.any_change.set()
                await asyncio.sleep(0)
            assert looks == 3
            watching.cancel()


async def test_restart_keeps_adopts_and_ends(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        ids = [(await p.microvms.run(ACCOUNT, RUN)).microvm_id for _ in range(3)]
        for vm_id in ids:
            await p.microvms.report(Started(vm_id, 1, "10.200.0.2"))
        await p.microvms.suspend(ACCOUNT, ids[1])
        await p.microvms.report(Suspended(ids[1], 1))
        await p.microvms.terminate(ACCOUNT, ids[2])
    async with plane(tmp_path) as p:
        kept = await inventory(p.images, p.microvms)
        assert kept.microvms == frozenset(ids)
        assert [key.number for key in kept.versions] == ["1.0"]
        await adopt_all(p.microvms, p.node)
        sent = p.node.commands
        assert [type(command) for command in sent] == [AdoptMicrovm, TerminateMicrovm]
        assert isinstance(sent[0], AdoptMicrovm)
        assert (sent[0].spec.microvm_id, sent[0].phase) == (ids[0], Phase.RUNNING)
