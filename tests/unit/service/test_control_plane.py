"""Each report reaches the service that it speaks to, over the store that all of them share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from microvmd.control.keys import KeyGate
from microvmd.control.roles import AssumableRoles
from microvmd.control.store import Store
from microvmd.messages.node import (
    BuildStarted,
    BuildSucceeded,
    BuildVersion,
    ConnectorProvisioned,
    ProvisionConnector,
    Started,
    StartMicrovm,
)
from microvmd.model.image import SnapshotSizes
from microvmd.model.microvm import Phase
from microvmd.service.control_plane import ControlPlane, control_plane
from microvmd.settings.settings import Settings
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, RecordingNode, RouteTable
from tests.unit.control.test_connectors import request

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def _plane(directory: Path, node: RecordingNode) -> AsyncIterator[ControlPlane]:
    (directory / "keys").mkdir()
    async with (
        Store.at(directory / "state.db") as store,
        control_plane(
            Settings(root=directory), store, node, RouteTable(), AssumableRoles(), KeyGate()
        ) as control,
    ):
        yield control


async def test_reports_of_builds_and_microvms(tmp_path: Path) -> None:
    node = RecordingNode()
    async with _plane(tmp_path, node) as control:
        await control.images.create(ACCOUNT, CREATE)
        build = node.commands.pop()
        assert isinstance(build, BuildVersion)
        await control.report(BuildStarted(build.version, build.build_id))
        await control.report(BuildSucceeded(build.version, build.build_id, SnapshotSizes(1, 2, 3)))
        made = await control.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        start = node.commands.pop()
        assert isinstance(start, StartMicrovm)
        await control.report(Started(made.microvm_id, start.spec.generation, "10.0.0.1:8080"))
        found = await control.microvms.get(ACCOUNT, made.microvm_id)
        assert found.phase is Phase.RUNNING


async def test_reports_of_connectors(tmp_path: Path) -> None:
    node = RecordingNode()
    async with _plane(tmp_path, node) as control:
        await control.connectors.create(ACCOUNT, request("office"))
        asked = node.commands.pop()
        assert isinstance(asked, ProvisionConnector)
        await control.report(ConnectorProvisioned(asked.connector_id, asked.number))
        found = await control.connectors.get(ACCOUNT, "office")
        assert found.connector.state.value == "ACTIVE"
