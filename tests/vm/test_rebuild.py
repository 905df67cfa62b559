"""A version whose snapshot another QEMU made is built again by the first run, once.

The other one is a copy of the machine's, which names another package as its version: what an
upgrade of the machine brings. The control plane, the builder and the node are the real ones.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from microvmd.api.images import ImageHandlers
from microvmd.api.requests import RequestContext
from microvmd.build.service import ImageBuilder
from microvmd.build.source import SourceSettings
from microvmd.cli.waiting import poll
from microvmd.control.keys import KeyGate
from microvmd.control.roles import AssumableRoles
from microvmd.control.store import Store
from microvmd.messages.node import Command, VersionKey
from microvmd.model.errors import NotFound
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.image import (
    Build,
    BuildState,
    Image,
    ImageState,
    SnapshotSizes,
    Version,
    VersionConfig,
    VersionState,
    VersionStatus,
)
from microvmd.model.microvm import MicroVm, Phase
from microvmd.node.agent import NodeAgent
from microvmd.node.bring_up import Equipment
from microvmd.node.known_files import KnownFiles
from microvmd.node.snapshot import seal_image
from microvmd.service.builds import build_options
from microvmd.service.control_plane import ControlPlane, control_plane
from microvmd.settings.settings import Settings
from tests import otherqemu
from tests.nodelab import ACCOUNT, LIMIT, READY_ONLY, ROLE, NodeLab, ask
from tests.unit.control.plane import RouteTable

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

REGION = "eu-central-1"
ARN = ImageArn("aws", REGION, ACCOUNT, "moved")
FIRST = VersionKey(ACCOUNT, "moved", "1.0")
RUN = {"imageIdentifier": str(ARN)}
CONTEXT = RequestContext(ACCOUNT, REGION, "AKIA", "r-1", datetime.now(UTC))


@pytest.fixture(scope="module")
def other_qemu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return otherqemu.other_qemu(tmp_path_factory.mktemp("qemu"))


@dataclass
class Way:
    """From the control plane to the node that there is."""

    agent: NodeAgent | None = None

    async def send(self, command: Command) -> None:
        assert self.agent is not None
        await self.agent.send(command)


@dataclass
class Whole:
    """A service without its sockets."""

    control: ControlPlane
    store: Store
    equipment: Equipment

    async def run(self) -> MicroVm:
        return await self.control.microvms.run(ACCOUNT, RUN)

    async def get(self, microvm: MicroVm) -> MicroVm:
        found = await self.store.run(lambda tx: tx.microvm(microvm.microvm_id))
        assert found is not None
        return found

    async def reaches(self, microvm: MicroVm, phase: Phase) -> MicroVm:
        async def there() -> bool:
            found = await self.get(microvm)
            assert found.phase is phase or found.phase is not Phase.TERMINATED, found
            return found.phase is phase

        await self.until(there)
        return await self.get(microvm)

    async def answer(self, microvm: MicroVm) -> str:
        """Of its application, which counts."""
        found = await self.reaches(microvm, Phase.RUNNING)
        assert found.edge_address is not None
        return await ask(found.edge_address, "count")

    async def end(self, microvm: MicroVm) -> None:
        await self.control.microvms.terminate(ACCOUNT, microvm.microvm_id)
        await self.reaches(microvm, Phase.TERMINATED)

    async def version(self) -> Version:
        return await self.control.images.version(ACCOUNT, str(ARN), "1.0")

    async def states(self) -> list[BuildState]:
        return [build.state for build in (await self.version()).builds]

    async def builds(self) -> list[dict[str, Any]]:
        """As the API lists them."""
        handlers = ImageHandlers(self.control.images, self.control.managed)
        request = {"imageIdentifier": str(ARN), "imageVersion": "1.0"}
        found = await handlers.list_microvm_image_builds(CONTEXT, request)
        return list(found["items"])

    async def is_under_way(self) -> None:
        async def there() -> bool:
            return (await self.states())[-1] is BuildState.IN_PROGRESS

        await self.until(there)

    async def until(self, there: Callable[[], Awaitable[bool]]) -> None:
        """Looks again at each event."""
        with anyio.fail_after(4 * LIMIT):
            while True:
                told = self.store.next_event
                if await there():
                    return
                await told.wait()

    @property
    def snapshots(self) -> list[VersionKey]:
        return self.equipment.paths.snapshots(FIRST)

    async def has(self, snapshots: list[VersionKey]) -> None:
        """At last: nobody is told when the others are removed."""

        def ask() -> bool | None:
            return True if self.snapshots == snapshots else None

        assert await asyncio.to_thread(lambda: poll(ask, limit=LIMIT)), self.snapshots

    async def log(self, build_id: str) -> str:
        await self.equipment.logs.flush()
        group = f"{ACCOUNT}:/aws/lambda-microvms/moved"
        page = await self.equipment.logs.read(group, f"build/1.0/{build_id}")
        return "\n".join(entry.text for entry in page.entries)


@pytest.fixture
def lab() -> Iterator[NodeLab]:
    with NodeLab.made() as made:
        yield made


@pytest.fixture
async def captured(lab: NodeLab) -> NodeLab:
    """With one version, which the QEMU of this machine has made."""
    async with lab.equipment() as equipment:
        command = await lab.capture(equipment, version=FIRST, hooks=READY_ONLY)
    await _recorded(lab, command.config)
    return lab


@asynccontextmanager
async def whole(lab: NodeLab) -> AsyncIterator[Whole]:
    """From start to stop, over what the last one left."""
    settings = Settings(root=lab.directory / "service", region=REGION, account=ACCOUNT)
    settings.root.mkdir(exist_ok=True)
    way = Way()
    async with (
        Store.at(settings.root / "state.db") as store,
        control_plane(settings, store, way, RouteTable(), AssumableRoles(), KeyGate()) as control,
        lab.equipment() as equipment,
    ):
        builder = ImageBuilder(
            equipment,
            SourceSettings(REGION),
            lambda account: build_options(settings, equipment, account),
        )
        async with NodeAgent(equipment, builder, control.report) as agent:
            way.agent = agent
            await agent.sweep(await control.inventory())
            await control.adopt(way, lambda _: False)
            yield Whole(control, store, equipment)


async def _recorded(lab: NodeLab, config: VersionConfig) -> None:
    """The version as its first build has made it."""
    made = Build("b-1", "X86_64", "INTEL", "x86_64", 1.0, BuildState.SUCCESSFUL)
    build = replace(made, sizes=SnapshotSizes(1, 1, 1))
    number, settled = ImageVersion(1), (VersionState.SUCCESSFUL, VersionStatus.ACTIVE)
    version = Version(ACCOUNT, "moved", number, config, build, 1.0, 1.0, *settled)
    root = lab.directory / "service"
    root.mkdir(exist_ok=True)
    async with Store.at(root / "state.db") as store:
        await store.run(lambda tx: tx.add_image(Image(ARN, ImageState.CREATED, 1.0, 1.0)))
        await store.run(lambda tx: tx.add_version(version))


async def test_the_first_run_builds_and_all_others_wait(
    captured: NodeLab, other_qemu: Path
) -> None:
    async with whole(captured) as before:
        old = await before.run()
        assert await before.answer(old) == "1"
        await before.control.microvms.suspend(ACCOUNT, old.microvm_id)
        await before.reaches(old, Phase.SUSPENDED)
        assert await before.states() == [BuildState.SUCCESSFUL]

    async with whole(replace(captured, qemu=other_qemu)) as moved:
        first, second = await moved.run(), await moved.run()
        await moved.is_under_way()
        assert (await moved.get(first)).phase is (await moved.get(second)).phase is Phase.PENDING
        assert (await moved.version()).runnable
        assert [await moved.answer(one) for one in (first, second)] == ["1", "1"]
        newest, oldest = await moved.builds()
        assert (newest["buildState"], oldest["buildState"]) == ("SUCCESSFUL", "SUCCESSFUL")
        assert newest["buildId"] != oldest["buildId"]
        assert newest["architecture"] == oldest["architecture"]
        log = await moved.log(newest["buildId"])
        assert "building the version again for this node: the snapshot was made under" in log
        assert "taking the snapshot" in log
        assert "fetching" not in log, "nothing is built but the snapshot"

        # What was suspended needs the files that it was made of, and the VMM too.
        again = replace(FIRST, build=newest["buildId"])
        assert moved.snapshots == [FIRST, again]
        await moved.control.microvms.resume(ACCOUNT, old.microvm_id)
        await moved.reaches(old, Phase.SUSPENDED)
        assert await moved.answer(second) == "2"
        third = await moved.run()
        assert await moved.answer(third) == "1"
        assert len(await moved.builds()) == 2
        for one in (first, second, third):
            await moved.end(one)
        assert moved.snapshots == [FIRST, again]

    async with whole(captured) as back:
        fourth = await back.run()
        assert await back.answer(fourth) == "1"
        assert len(await back.builds()) == 2, "there is one that fits"
        await back.control.microvms.resume(ACCOUNT, old.microvm_id)
        assert await back.answer(old) == "2"
        for one in (old, fourth):
            await back.end(one)
        await back.has([FIRST])


async def test_a_stop_in_the_middle_begins_it_again(captured: NodeLab, other_qemu: Path) -> None:
    moved = replace(captured, qemu=other_qemu)
    async with whole(moved) as cut_off:
        waiting = await cut_off.run()
        await cut_off.is_under_way()
    async with whole(moved) as after:
        assert await after.answer(waiting) == "1"
        *_, lost, made = (await after.version()).builds
        assert (lost.state, lost.interrupted) == (BuildState.FAILED, True)
        assert made.state is BuildState.SUCCESSFUL
        await after.has([replace(FIRST, build=made.build_id)])
        await after.end(waiting)


async def test_a_deletion_in_the_middle_ends_it(captured: NodeLab, other_qemu: Path) -> None:
    async with whole(replace(captured, qemu=other_qemu)) as moved:
        waiting = await moved.run()
        await moved.is_under_way()
        await moved.end(waiting)
        await moved.control.images.delete(ACCOUNT, str(ARN))

        async def gone() -> bool:
            try:
                await moved.control.images.get(ACCOUNT, str(ARN))
            except NotFound:
                return True
            return False

        await moved.until(gone)
        assert moved.snapshots == []
        assert not list(moved.equipment.paths.tmp.iterdir())


async def test_a_version_of_before_says_what_to_do(lab: NodeLab, tmp_path: Path) -> None:
    """Its configuration was not kept, so that it cannot be built; and that is not tried for each
    run."""
    async with lab.equipment() as equipment:
        half, paths = tmp_path / "half", equipment.paths
        half.mkdir()
        for name in ("rootfs.erofs", "disk.raw", "memory", "device"):
            (half / name).write_bytes(b"content")
        await seal_image(
            half,
            paths.image(FIRST).directory,
            stamp=replace(equipment.stamp, vmm_version="9.2.0"),
            memory_mib=512,
            vcpus=1,
            known=KnownFiles(paths.known_files),
        )
    await _recorded(lab, VersionConfig("base", ROLE, "s3://b/k", memory_mib=512))
    async with whole(lab) as here:
        runs = [await here.run() for _ in range(2)]
        reasons = {(await here.reaches(one, Phase.TERMINATED)).state_reason for one in runs}
        late = str((await here.reaches(await here.run(), Phase.TERMINATED)).state_reason)
        assert "kept no config.json to build it again from: build the image again" in late
        assert "not tried again for" in late
        assert all("building it again failed: the image was" in str(one) for one in reasons)
        assert await here.states() == [BuildState.SUCCESSFUL, BuildState.FAILED]
        await here.control.images.set_status(ACCOUNT, str(ARN), "1.0", VersionStatus.ACTIVE)
        await here.reaches(await here.run(), Phase.TERMINATED)
        assert len(await here.states()) == 3, "as it was asked for"
