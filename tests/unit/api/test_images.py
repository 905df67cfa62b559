"""What is rendered of images, versions and builds."""

from pathlib import Path
from typing import Any

import pytest

from microvmd.messages.node import BuildFailed, BuildVersion, Unfit
from microvmd.model.errors import NotFound, ValidationError
from microvmd.model.image import SnapshotSizes
from tests.unit.api.handling import MANAGED, handled
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN


@pytest.mark.anyio
async def test_configuration_is_echoed_as_it_was_sent(tmp_path: Path) -> None:
    sent: dict[str, Any] = {
        "logging": {"disabled": {}},
        "hooks": {
            "port": 9001,
            "microvmHooks": {"run": "ENABLED", "runTimeoutInSeconds": 5, "suspend": "DISABLED"},
            "microvmImageHooks": {"ready": "ENABLED"},
        },
        "environmentVariables": {"A": "1"},
        "cpuConfigurations": [{"architecture": "ARM_64"}],
        "additionalOsCapabilities": ["ALL"],
        "resources": [{"minimumMemoryInMiB": 512}],
        "kmsKeyIdentifier": "alias/key",
        "description": "text",
    }
    async with handled(tmp_path) as api:
        created = await api("CreateMicrovmImage", **{**CREATE, **sent})
        version = await api("GetMicrovmImageVersion", imageIdentifier=IMAGE_ARN, imageVersion="1.0")
    for name, value in sent.items():
        for shown in (created, version):
            found = shown[name]
            assert (list(found) if isinstance(found, tuple) else found) == value
    assert created["egressNetworkConnectors"] == (f"{MANAGED}INTERNET_EGRESS",)
    assert version["versionStateTimeBucket"] == "PENDING#70010100"


@pytest.mark.anyio
async def test_image_id_is_stable(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        created = await api("CreateMicrovmImage", **CREATE)
        assert created["id"] == (await api("GetMicrovmImage", imageIdentifier=IMAGE_ARN))["id"]


@pytest.mark.anyio
async def test_a_version_that_is_built_again_has_several_builds(tmp_path: Path) -> None:
    which = {"imageIdentifier": IMAGE_ARN, "imageVersion": "1.0"}
    async with handled(tmp_path) as api:
        await api.plane.built()
        microvm = await api("RunMicrovm", imageIdentifier=IMAGE_ARN)
        await api.plane.rebuilds.unfit(Unfit(microvm["microvmId"], 1, "another QEMU"))
        newest, oldest = (await api("ListMicrovmImageBuilds", **which))["items"]
        assert (newest["buildState"], oldest["buildState"]) == ("PENDING", "SUCCESSFUL")
        version = await api("GetMicrovmImageVersion", **which)
        assert (version["state"], version["status"]) == ("SUCCESSFUL", "ACTIVE")
        first = await api("ListMicrovmImageBuilds", **which, maxResults=1)
        assert first["items"] == [newest]
        rest = await api("ListMicrovmImageBuilds", **which, nextToken=first["nextToken"])
        assert (rest["items"], rest["nextToken"]) == ([oldest], None)
        for build, sizes in ((newest, None), (oldest, 1)):
            found = await api("GetMicrovmImageBuild", **which, buildId=build["buildId"])
            told = found["snapshotBuild"]
            assert (told and told["memorySnapshotSizeInBytes"]) == sizes
        with pytest.raises(ValidationError, match="Invalid nextToken"):
            await api("ListMicrovmImageBuilds", **which, nextToken="other")


@pytest.mark.anyio
async def test_builds_are_filtered_by_processor(tmp_path: Path) -> None:
    which = {"imageIdentifier": IMAGE_ARN, "imageVersion": "1.0"}
    async with handled(tmp_path) as api:
        await api.plane.built()
        build = (await api("ListMicrovmImageBuilds", **which))["items"][0]
        same = {"architecture": build["architecture"], "chipset": build["chipset"]}
        assert len((await api("ListMicrovmImageBuilds", **which, **same))["items"]) == 1
        other = await api("ListMicrovmImageBuilds", **which, chipsetGeneration="none")
        assert other["items"] == []
        with pytest.raises(NotFound, match="build not found"):
            await api("GetMicrovmImageBuild", **which, buildId="other")
        with pytest.raises(ValidationError, match="Invalid nextToken"):
            await api("ListMicrovmImageBuilds", **which, nextToken="x")


@pytest.mark.anyio
async def test_sizes_of_a_build_that_timed_out(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        await api("CreateMicrovmImage", **CREATE)
        command = api.plane.node.commands.pop()
        assert isinstance(command, BuildVersion)
        reason = "Ready hook invocation timed out after PT5M"
        await api.plane.images.report(
            BuildFailed(command.version, command.build_id, reason, SnapshotSizes(code=7))
        )
        build = await api(
            "GetMicrovmImageBuild",
            imageIdentifier=IMAGE_ARN,
            imageVersion="1.0",
            buildId=command.build_id,
        )
    assert build["stateReason"] == reason
    assert build["snapshotBuild"] == {"codeInstallSizeInBytes": 7}


@pytest.mark.anyio
async def test_delete_of_what_is_gone(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        gone = await api("DeleteMicrovmImage", imageIdentifier=IMAGE_ARN)
        assert gone == {"imageIdentifier": IMAGE_ARN, "state": "DELETED"}
        with pytest.raises(NotFound):
            await api("DeleteMicrovmImage", imageIdentifier=IMAGE_ARN.replace(ACCOUNT, "1" * 12))


@pytest.mark.anyio
async def test_managed_images_come_in_pages(tmp_path: Path) -> None:
    base = CREATE["baseImageArn"]
    async with handled(tmp_path) as api:
        first = await api("ListManagedMicrovmImageVersions", imageIdentifier=base, maxResults=1)
        token = first["nextToken"]
        second = await api("ListManagedMicrovmImageVersions", imageIdentifier=base, nextToken=token)
        assert [item["imageVersion"] for item in first["items"] + second["items"]] == ["1", "0"]
        assert second["nextToken"] is None
        with pytest.raises(ValidationError):
            await api("ListManagedMicrovmImageVersions", imageIdentifier=base, nextToken="9")
