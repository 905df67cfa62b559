"""Quotas in the real store: concurrent calls never exceed them, and what ends gives its room."""

import asyncio
from pathlib import Path

import pytest

from microvmd.control.admission import Admission
from microvmd.messages.node import BuildVersion, Terminated
from microvmd.model.errors import QuotaExceeded
from microvmd.model.quota import Quotas
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, Plane, plane

pytestmark = pytest.mark.anyio

SMALL = {"resources": [{"minimumMemoryInMiB": 512}]}


async def _run(found: Plane) -> str | None:
    """The id of a new MicroVM, or None when the quota is reached."""
    try:
        return (await found.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})).microvm_id
    except QuotaExceeded:
        return None


async def test_concurrent_runs_never_exceed_the_quota(tmp_path: Path) -> None:
    async with plane(tmp_path, admission=Admission(Quotas(memory_mib=7 * 512 + 511))) as found:
        await found.built(**SMALL)
        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(_run(found)) for _ in range(50)]
        made = [run.result() for run in runs if run.result() is not None]
        assert len(made) == 7
        assert found.node.taken() == ["StartMicrovm"] * 7
        use = await found.store.run(lambda tx: tx.use.of(ACCOUNT))
        assert use.memory_mib == 7 * 512
        assert await found.store.run(lambda tx: tx.use.of("999999999999")) != use


async def test_memory_counts_until_terminated(tmp_path: Path) -> None:
    async with plane(tmp_path, admission=Admission(Quotas(memory_mib=512))) as found:
        await found.built(**SMALL)
        microvm_id = await _run(found)
        assert microvm_id is not None
        await found.microvms.terminate(ACCOUNT, microvm_id)
        assert await _run(found) is None, "TERMINATING counts"
        await found.microvms.report(Terminated(microvm_id, 1))
        assert await _run(found) is not None


async def test_builds_in_flight_count(tmp_path: Path) -> None:
    admission = Admission(Quotas(memory_mib=1024, builds=1))
    async with plane(tmp_path, admission=admission) as found:
        await found.images.create(ACCOUNT, {**CREATE, **SMALL})
        with pytest.raises(QuotaExceeded, match="concurrent"):
            await found.images.create(ACCOUNT, {**CREATE, **SMALL, "name": "other"})
        assert (await found.store.run(lambda tx: tx.use.of(ACCOUNT))).builds == 1
        await found.play_build()
        assert await _run(found) is not None
        assert await _run(found) is not None
        with pytest.raises(QuotaExceeded, match="memory"):
            await found.images.create(ACCOUNT, {**CREATE, **SMALL, "name": "other"})
        assert not [c for c in found.node.commands if isinstance(c, BuildVersion)]


async def test_images_and_versions(tmp_path: Path) -> None:
    admission = Admission(Quotas(images=1, versions=1))
    async with plane(tmp_path, admission=admission) as found:
        await found.built(**SMALL)
        with pytest.raises(QuotaExceeded, match="images"):
            await found.images.create(ACCOUNT, {**CREATE, "name": "other"})
        with pytest.raises(QuotaExceeded, match="versions"):
            await found.images.update(ACCOUNT, {**CREATE, "imageIdentifier": IMAGE_ARN})
        view = await found.images.get(ACCOUNT, IMAGE_ARN)
        assert view.image.state == "CREATED", "a refused update changes nothing"


async def test_a_replay_comes_before_any_quota(tmp_path: Path) -> None:
    admission = Admission(Quotas(memory_mib=512, images=1, builds=1))
    async with plane(tmp_path, admission=admission) as found:
        request = {**CREATE, **SMALL, "clientToken": "create"}
        await found.images.create(ACCOUNT, request)
        await found.images.create(ACCOUNT, request)
        await found.play_build()
        run = {"imageIdentifier": IMAGE_ARN, "clientToken": "run"}
        first = await found.microvms.run(ACCOUNT, run)
        assert await found.microvms.run(ACCOUNT, run) == first
