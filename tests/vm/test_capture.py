"""From a root file system to an image snapshot: what it holds, and how an application fails it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network

import pytest

from microvmd.messages.node import VersionKey
from microvmd.model.egress import INTERNET, Egress, Reach, grant_of
from microvmd.model.hooks import HookName, Hooks, HookSetting
from microvmd.node.agent import BuildRefused
from microvmd.node.bring_up import Equipment
from microvmd.node.network import Network
from microvmd.node.snapshot import SnapshotKind, verify
from microvmd.vmm.causes import ungrouped
from tests.nodelab import ACCOUNT, VERSION, NodeLab

pytestmark = [pytest.mark.vm, pytest.mark.anyio]


def version(number: int) -> VersionKey:
    return VersionKey(ACCOUNT, "failing", f"{number}.0")


async def build_log(equipment: Equipment, key: VersionKey) -> list[str]:
    await equipment.logs.flush()
    page = await equipment.logs.read("build", key.number)
    return [entry.text for entry in page.entries]


async def nothing_made(equipment: Equipment, key: VersionKey) -> None:
    assert not equipment.paths.image(key).directory.exists()
    assert list(equipment.paths.tmp.iterdir()) == []


async def test_an_image_is_whole_and_cannot_be_written(node_lab: NodeLab) -> None:
    async with node_lab.equipment() as equipment:
        directory = equipment.paths.image(VERSION).directory
        manifest = await verify(directory)
        assert {"memory", "device", "disk.raw", "rootfs.erofs"} <= set(manifest.files)
        assert (manifest.memory_mib, manifest.stamp) == (2048, equipment.stamp)
        assert 0 < manifest.sizes.memory < 512 << 20, "memory that was never touched takes no disk"
        assert all(
            path.stat().st_mode & 0o777 == 0o444
            for path in directory.iterdir()
            if path.name in manifest.files
        )
        log = await build_log(equipment, VERSION)
        assert "serving" in log, "what the application prints stands in the build log"
        steps = [line for line in log if re.match("starting|calling|taking|restoring", line)]
        assert [step.split()[0] for step in steps] == [
            "starting",
            "starting",
            "calling",
            "taking",
            "restoring",
            "calling",
        ]


async def test_an_application_that_ends(node_lab: NodeLab) -> None:
    key = version(1)
    async with node_lab.equipment() as equipment:
        with (
            pytest.raises(BuildRefused, match="ended with code 4 before it was ready"),
            ungrouped(),
        ):
            await node_lab.capture(equipment, "no module named flask", version=key)
        log = await build_log(equipment, key)
        assert log[-1] == "no module named flask", "its last words tell why"
        await nothing_made(equipment, key)


async def test_nothing_to_run(node_lab: NodeLab) -> None:
    key = version(2)
    async with node_lab.equipment() as equipment:
        with pytest.raises(BuildRefused, match="nothing to run"), ungrouped():
            await node_lab.capture(equipment, cmd=False, version=key)
        await nothing_made(equipment, key)


async def test_an_application_that_is_never_ready(node_lab: NodeLab) -> None:
    key = version(3)
    deaf = Hooks(9999, {HookName.READY: HookSetting(True, 1)})
    async with node_lab.equipment() as equipment:
        with pytest.raises(BuildRefused) as failed, ungrouped():
            await node_lab.capture(equipment, hooks=deaf, version=key)
        assert failed.value.reason == "Ready hook invocation timed out after PT1S"
        assert failed.value.sizes is not None
        assert failed.value.sizes.code
        await nothing_made(equipment, key)


async def test_the_application_keeps_to_the_connectors_of_its_image(
    node_lab: NodeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = version(5)
    egress = Egress(reaches=(Reach(grant_of("nc-1", 1), IPv4Network("10.99.0.0/16")),))
    given: list[Egress | None] = []
    async with node_lab.equipment() as equipment:
        make = equipment.networks.network

        @asynccontextmanager
        async def watched(asked: Egress = INTERNET) -> AsyncIterator[Network]:
            async with make(asked) as network:
                given.append(network.egress)
                yield network

        monkeypatch.setattr(equipment.networks, "network", watched)
        with pytest.raises(BuildRefused, match="ended with code 4"), ungrouped():
            await node_lab.capture(equipment, "bye", version=key, egress=egress)
    assert given == [egress]


async def test_without_hooks_a_port_tells_that_it_is_ready(node_lab: NodeLab) -> None:
    key = version(4)
    async with node_lab.equipment() as equipment:
        await node_lab.capture(equipment, hooks=Hooks(), version=key)
        directory = equipment.paths.image(key).directory
        assert (await verify(directory)).kind is SnapshotKind.IMAGE
        log = await build_log(equipment, key)
        assert "no ready hook: waiting for the application to listen on port 8080" in log
