"""The node's room in the real store: bursts never exceed it, and a refusal leaves nothing."""

import asyncio
from pathlib import Path

import pytest

from microvmd.control.admission import Admission
from microvmd.control.capacity import Capacity
from microvmd.messages.node import ResumeFailed, Started, StartMicrovm, Suspended, Terminated
from microvmd.model.capacity import BUILD_MIB, NO_ROOM, CapacityRules
from microvmd.model.errors import InsufficientCapacity, QuotaExceeded
from microvmd.model.image import VersionState
from microvmd.model.microvm import Phase
from microvmd.model.quota import Quotas
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, Plane, PlayedMeter, plane

pytestmark = pytest.mark.anyio

RULES = CapacityRules(reserve_mib=100, microvm_mib=50, disk_mib=10)
AUTO = {"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 900, "autoResumeEnabled": True}


def _admission(meter: PlayedMeter, quotas: Quotas | None = None) -> Admission:
    return Admission(quotas or Quotas(), Capacity(RULES, meter))


async def _run(found: Plane) -> str | None:
    try:
        return (await found.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})).microvm_id
    except InsufficientCapacity:
        return None


async def test_a_burst_never_exceeds_the_room(tmp_path: Path) -> None:
    meter = PlayedMeter()
    async with plane(tmp_path, admission=_admission(meter)) as found:
        await found.built()
        meter.available_mib = 100 + 7 * 50 + 49
        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(_run(found)) for _ in range(100)]
        made = [run.result() for run in runs if run.result() is not None]
        assert len(made) == 7
        assert found.node.taken() == ["StartMicrovm"] * 7
        assert {vm.microvm_id for vm in found.microvms.live()} == set(made)

        # Two have taken their memory, and more: the machine has less, nothing is promised twice.
        meter.taken = {name: 60 for name in made[:2] if name is not None}
        meter.available_mib -= 2 * 60
        assert await _run(found) is None
        await found.microvms.terminate(ACCOUNT, str(made[0]))
        assert await _run(found) is None, "it is there until the node says that it is gone"
        await found.microvms.report(Terminated(str(made[0]), 1))
        meter.available_mib += 60
        assert await _run(found) is not None


async def test_the_refusal_is_the_models_and_comes_after_the_quota(tmp_path: Path) -> None:
    meter = PlayedMeter()
    async with plane(tmp_path, admission=_admission(meter, Quotas(memory_mib=2048))) as found:
        await found.built()
        meter.available_mib = 0
        with pytest.raises(InsufficientCapacity) as refused:
            await found.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        assert refused.value.message == NO_ROOM
        meter.available_mib = 10_000
        await found.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        meter.available_mib = 0
        with pytest.raises(QuotaExceeded):
            await found.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})


async def _suspended(found: Plane) -> str:
    request = {"imageIdentifier": IMAGE_ARN, "idlePolicy": AUTO}
    made = await found.microvms.run(ACCOUNT, request)
    await found.microvms.report(Started(made.microvm_id, 1, "10.0.0.1"))
    await found.microvms.suspend(ACCOUNT, made.microvm_id)
    await found.microvms.report(Suspended(made.microvm_id, 1))
    found.node.taken()
    return made.microvm_id


async def test_a_resume_without_room_changes_nothing(tmp_path: Path) -> None:
    meter = PlayedMeter()
    async with plane(tmp_path, admission=_admission(meter)) as found:
        await found.built()
        name = await _suspended(found)
        endpoint = (await found.microvms.get(ACCOUNT, name)).endpoint_id
        meter.available_mib, meter.stored = 100 + 299, {name: 300}
        with pytest.raises(InsufficientCapacity):
            await found.microvms.resume(ACCOUNT, name)
        routed = await found.microvms.route_to(endpoint)
        assert (routed.known, routed.allowed, routed.address) == (True, True, None)
        microvm = await found.microvms.get(ACCOUNT, name)
        assert (microvm.phase, microvm.generation) == (Phase.SUSPENDED, 1)
        assert found.node.taken() == []

        meter.available_mib += 1
        await found.microvms.resume(ACCOUNT, name)
        assert found.node.taken() == ["ResumeMicrovm"]
        await found.microvms.report(ResumeFailed(name, 2, "why"))
        assert (await found.microvms.get(ACCOUNT, name)).phase is Phase.SUSPENDED


async def test_a_suspended_one_holds_nothing(tmp_path: Path) -> None:
    meter = PlayedMeter()
    async with plane(tmp_path, admission=_admission(meter)) as found:
        await found.built()
        await _suspended(found)
        meter.available_mib = 100 + 50
        assert await _run(found) is not None
        assert await _run(found) is None


async def test_a_build_without_room_fails(tmp_path: Path) -> None:
    """Its operations have no InsufficientCapacityException; the build tells why."""
    meter = PlayedMeter(available_mib=100 + BUILD_MIB - 1)
    async with plane(tmp_path, admission=_admission(meter)) as found:
        view, version = await found.images.create(ACCOUNT, CREATE)
        assert (view.image.state, version.state) == ("CREATING", VersionState.PENDING)
        assert found.node.taken() == []
        settled = await found.images.version(ACCOUNT, IMAGE_ARN, "1.0")
        assert settled.state is VersionState.FAILED
        assert settled.build.reason == f"INTERNAL_PLATFORM_ERROR: {NO_ROOM}"
        assert (await found.images.get(ACCOUNT, IMAGE_ARN)).image.state == "CREATE_FAILED"

        meter.available_mib += 1
        await found.images.update(ACCOUNT, {**CREATE, "imageIdentifier": IMAGE_ARN})
        assert found.node.taken() == ["BuildVersion"]
        await found.images.create(ACCOUNT, {**CREATE, "name": "other"})
        assert found.node.taken() == [], "a build in flight counts"

        meter.available_mib += BUILD_MIB
        for name in ("second", "third", "fourth"):
            await found.images.create(ACCOUNT, {**CREATE, "name": name})
        assert found.node.taken() == ["BuildVersion"] * 3, "what waits for others takes nothing"
        room = await found.store.run(_admission(meter).capacity.room)
        assert room is not None
        assert (room.builds, room.microvms, room.left_mib) == (4, 0, 0)


async def test_without_a_meter_there_is_room(tmp_path: Path) -> None:
    rules = CapacityRules(reserve_mib=1 << 30)
    async with plane(tmp_path, admission=Admission(capacity=Capacity(rules))) as found:
        await found.built()
        assert await _run(found) is not None
        assert isinstance(found.node.commands[-1], StartMicrovm)
