"""A control plane with in-memory implementations of its two seams: the node and the edge's map."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microvmd.control.admission import Admission
from microvmd.control.connectors import Connectors
from microvmd.control.images import Images
from microvmd.control.keys import KeyGate
from microvmd.control.managed import ManagedImages
from microvmd.control.microvms import MicroVms
from microvmd.control.paging import Cursors
from microvmd.control.rebuilds import Rebuilds
from microvmd.control.store import Store
from microvmd.messages.capacity import Measured
from microvmd.messages.node import BuildStarted, BuildSucceeded, BuildVersion, Command
from microvmd.model.capacity import Machine
from microvmd.model.egress import EgressMap
from microvmd.model.image import SnapshotSizes

ACCOUNT = "000000000000"
REGION = "us-east-1"
IMAGE_ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:app"
CREATE: dict[str, Any] = {
    "name": "app",
    "baseImageArn": f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
    "buildRoleArn": "arn:aws:iam::000000000000:role/build",
    "codeArtifact": {"uri": "s3://bucket/app.zip"},
}


@dataclass
class RecordingNode:
    """Keeps the commands; the test plays the node's reports."""

    commands: list[Command] = field(default_factory=list)
    lost: bool = False

    async def send(self, command: Command) -> None:
        if self.lost:
            raise ConnectionError("no node")
        self.commands.append(command)

    def taken(self) -> list[str]:
        """Names of the commands since the last look."""
        names = [type(command).__name__ for command in self.commands]
        self.commands.clear()
        return names


@dataclass
class PlayedMeter:
    """A machine of which a test says how full it is."""

    available_mib: int = 10_000
    taken: dict[str, int] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)

    def measure(self) -> Measured:
        return Measured(Machine(20_000, self.available_mib, 100_000, 50_000), self.taken)

    def stored_mib(self, microvm_id: str) -> int:
        return self.stored.get(microvm_id, 0)


@dataclass
class RouteTable:
    """The edge's map as a dict."""

    addresses: dict[str, str] = field(default_factory=dict)

    async def add(self, endpoint_id: str, address: str) -> None:
        self.addresses[endpoint_id] = address

    async def remove(self, endpoint_id: str) -> None:
        self.addresses.pop(endpoint_id, None)


@dataclass
class Clock:
    """Wall-clock seconds that only a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Plane:
    """Everything of one control plane."""

    store: Store
    node: RecordingNode
    routes: RouteTable
    clock: Clock
    managed: ManagedImages
    images: Images
    microvms: MicroVms
    connectors: Connectors
    rebuilds: Rebuilds

    async def built(self, **request: Any) -> None:
        """Create the image ``app`` and play a successful build."""
        await self.images.create(ACCOUNT, {**CREATE, **request})
        await self.play_build()

    async def play_build(self) -> None:
        """The build that was asked for last succeeds."""
        command = self.node.commands.pop()
        assert isinstance(command, BuildVersion)
        await self.images.report(BuildStarted(command.version, command.build_id))
        await self.images.report(
            BuildSucceeded(command.version, command.build_id, SnapshotSizes(1, 2, 3))
        )


@asynccontextmanager
async def plane(
    directory: Path,
    managed: ManagedImages = ManagedImages(REGION),  # noqa: B008 - frozen
    networks: EgressMap | None = None,
    keys: KeyGate | None = None,
    admission: Admission | None = None,
) -> AsyncIterator[Plane]:
    """A control plane over a database in ``directory``; open it again to play a restart."""
    node, routes, clock = RecordingNode(), RouteTable(), Clock()
    cursors = Cursors(b"k" * 32)
    async with (
        Store.at(directory / "state.db", clock) as store,
        MicroVms(
            store, node, routes, cursors, clock, managed, networks, keys=keys, admission=admission
        ) as microvms,
    ):
        images = Images(
            store, node, cursors, clock, managed, networks=networks, admission=admission
        )
        connectors = Connectors(store, node, cursors, clock, REGION, networks=networks)
        rebuilds = Rebuilds(store, node, microvms, clock, microvms.use, admission)
        yield Plane(store, node, routes, clock, managed, images, microvms, connectors, rebuilds)
