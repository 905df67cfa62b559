"""Decisions about images, versions and builds."""

from pathlib import Path

import pytest

from microvmd.control.images import INTERRUPTED
from microvmd.messages.node import (
    BuildFailed,
    BuildStarted,
    BuildVersion,
    DeleteVersion,
    Terminated,
    VersionDeleted,
    VersionKey,
)
from microvmd.model.errors import Conflict, NotFound, ValidationError
from microvmd.model.identifiers import ImageVersion
from microvmd.model.image import VMM_TAG, BuildState, ImageState, VersionState, VersionStatus
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, Plane, plane

pytestmark = pytest.mark.anyio


async def image_state(p: Plane) -> ImageState:
    return (await p.images.get(ACCOUNT, IMAGE_ARN)).image.state


def build_command(p: Plane) -> BuildVersion:
    command = p.node.commands.pop()
    assert isinstance(command, BuildVersion)
    return command


async def test_create_build_and_run_state(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        view, version = await p.images.create(ACCOUNT, {**CREATE, "tags": {"team": "a"}})
        assert (view.image.state, str(version.number)) == (ImageState.CREATING, "1.0")
        assert version.config.environment == {}
        command = build_command(p)
        assert command.log.group == f"{ACCOUNT}:/aws/lambda-microvms/app"
        await p.images.report(BuildStarted(command.version, command.build_id))
        await p.images.report(
            BuildFailed(command.version, command.build_id, "The container image build failed.")
        )
        view = await p.images.get(ACCOUNT, IMAGE_ARN)
        assert (view.image.state, view.latest_failed, view.latest_active) == (
            ImageState.CREATE_FAILED,
            "1.0",
            None,
        )
        found = await p.images.version(ACCOUNT, IMAGE_ARN, "1.0")
        assert (found.build.state, found.build.reason) == (
            BuildState.FAILED,
            "The container image build failed.",
        )


async def test_update_makes_a_version_and_keeps_the_old_one_usable(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        update = {**CREATE, "imageIdentifier": IMAGE_ARN}
        view, version = await p.images.update(ACCOUNT, update)
        assert (view.image.state, str(version.number)) == (ImageState.UPDATING, "2.0")
        assert view.latest_active == "1.0"
        with pytest.raises(Conflict, match="MicroVM Image is already in state: UPDATING"):
            await p.images.update(ACCOUNT, update)
        with pytest.raises(Conflict, match="UPDATING"):
            await p.images.set_status(ACCOUNT, IMAGE_ARN, "1.0", VersionStatus.INACTIVE)
        command = build_command(p)
        await p.images.report(BuildFailed(command.version, command.build_id, "why"))
        assert await image_state(p) is ImageState.UPDATE_FAILED


async def test_second_create_of_a_name_and_client_token(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.images.create(ACCOUNT, {**CREATE, "clientToken": "t"})
        again, _ = await p.images.create(ACCOUNT, {**CREATE, "clientToken": "t"})
        assert again.image.name == "app"
        assert p.node.taken() == ["BuildVersion"]
        with pytest.raises(
            ValidationError, match="A MicroVM image with the name 'app' already exists in this"
        ):
            await p.images.create(ACCOUNT, CREATE)
        with pytest.raises(ValidationError, match="version 999 is available"):
            await p.images.create(ACCOUNT, {**CREATE, "name": "b", "baseImageVersion": "999"})


async def test_delete_is_in_two_phases_and_frees_name_and_token(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built(clientToken="t")
        vm = await p.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        with pytest.raises(ValidationError, match=r"Cannot delete microvm image with running"):
            await p.images.delete(ACCOUNT, IMAGE_ARN)
        await p.microvms.terminate(ACCOUNT, vm.microvm_id)
        await p.microvms.report(Terminated(vm.microvm_id, 1))
        p.node.commands.clear()

        image = await p.images.delete(ACCOUNT, IMAGE_ARN)
        assert image.state is ImageState.DELETING
        with pytest.raises(ValidationError, match="already exists"):
            await p.images.create(ACCOUNT, CREATE)
        command = p.node.commands.pop()
        assert isinstance(command, DeleteVersion)
        await p.images.report_deleted(VersionDeleted(command.version))
        with pytest.raises(
            NotFound, match=f"MicroVMImage not found for MicroVMImageID: {IMAGE_ARN}"
        ):
            await p.images.get(ACCOUNT, IMAGE_ARN)
        await p.built(clientToken="t")
        assert await image_state(p) is ImageState.CREATED


async def test_delete_while_building_is_refused(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.images.create(ACCOUNT, CREATE)
        with pytest.raises(ValidationError, match="Cannot delete MicroVM image in its current"):
            await p.images.delete(ACCOUNT, IMAGE_ARN)


async def test_inactive_version_cannot_run(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        p.node.taken()
        await p.images.set_status(ACCOUNT, IMAGE_ARN, "1.0", VersionStatus.INACTIVE)
        assert p.node.taken() == ["RetireVersion"]
        for request in ({}, {"imageVersion": "1.0"}):
            with pytest.raises(NotFound, match="No active version found for MicroVM image"):
                await p.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN, **request})


async def test_last_version_cannot_be_deleted(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        with pytest.raises(Conflict, match="last version"):
            await p.images.delete_version(ACCOUNT, IMAGE_ARN, "1.0")
        await p.images.update(ACCOUNT, {**CREATE, "imageIdentifier": IMAGE_ARN})
        command = build_command(p)
        await p.images.report(BuildFailed(command.version, command.build_id, "why"))
        doomed = await p.images.delete_version(ACCOUNT, IMAGE_ARN, "1.0")
        assert doomed.state is VersionState.DELETING
        await p.images.report_deleted(VersionDeleted(command_version(p)))
        page = await p.images.versions(ACCOUNT, IMAGE_ARN)
        assert [str(version.number) for version in page.items] == ["2.0"]


def command_version(p: Plane) -> VersionKey:
    command = p.node.commands.pop()
    assert isinstance(command, DeleteVersion)
    return command.version


async def test_builds_in_flight_fail_at_a_restart(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.images.create(ACCOUNT, CREATE)
    async with plane(tmp_path) as p:
        assert await p.images.settle_after_restart() == []
        version = await p.images.version(ACCOUNT, IMAGE_ARN, "1.0")
        assert (version.build.state, version.build.reason) == (BuildState.FAILED, INTERRUPTED)
        assert await image_state(p) is ImageState.CREATE_FAILED


async def test_names_are_filtered_after_the_page_is_cut(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        for name in ("a1", "b1", "b2"):
            await p.images.create(ACCOUNT, {**CREATE, "name": name})
        first = await p.images.list_images(ACCOUNT, name_filter="b", max_results=1)
        assert (list(first.items), first.next_token is None) == ([], False)
        rest = await p.images.list_images(
            ACCOUNT, name_filter="b", max_results=5, next_token=first.next_token
        )
        assert [view.image.name for view in rest.items] == ["b1", "b2"]
        assert rest.next_token is None


async def test_a_tag_chooses_the_vmm_of_the_next_build(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        with pytest.raises(ValidationError, match=r"^The tag microvmd:vmm .*not 'bochs'"):
            await p.images.create(ACCOUNT, {**CREATE, "tags": {VMM_TAG: "bochs"}})
        await p.images.create(ACCOUNT, {**CREATE, "tags": {VMM_TAG: "firecracker"}})
        first = p.node.commands[-1]
        assert isinstance(first, BuildVersion)
        assert first.vmm == "firecracker"
        await p.play_build()
        with pytest.raises(ValidationError, match=VMM_TAG):
            await p.images.set_tags(ACCOUNT, IMAGE_ARN, {VMM_TAG: "Firecracker"})
        await p.images.set_tags(ACCOUNT, IMAGE_ARN, {VMM_TAG: "qemu"})
        await p.images.update(ACCOUNT, {**CREATE, "imageIdentifier": IMAGE_ARN})
        assert build_command(p).vmm == "qemu"


async def test_tags(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built(tags={"a": "1"})
        await p.images.set_tags(ACCOUNT, IMAGE_ARN, {"b": "2"})
        await p.images.remove_tags(ACCOUNT, IMAGE_ARN, ["a"])
        assert (await p.images.get(ACCOUNT, IMAGE_ARN)).image.tags == {"b": "2"}
        with pytest.raises(ValidationError, match="at most 50"):
            await p.images.set_tags(ACCOUNT, IMAGE_ARN, {f"k{n}": "" for n in range(51)})


async def test_a_second_delete_asks_the_node_nothing_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        await p.images.delete(ACCOUNT, IMAGE_ARN)
        assert p.node.taken() == ["DeleteVersion"]
        await p.images.delete(ACCOUNT, IMAGE_ARN)
        assert p.node.taken() == [], "two removals of one directory would trip over each other"


async def test_the_token_of_an_update_is_forgotten_with_the_image(tmp_path: Path) -> None:
    update = {key: value for key, value in CREATE.items() if key != "name"}
    update |= {"imageIdentifier": IMAGE_ARN, "clientToken": "t"}
    async with plane(tmp_path) as p:
        for _ in range(2):
            await p.built()
            _, made = await p.images.update(ACCOUNT, update)
            _, again = await p.images.update(ACCOUNT, update)
            assert made.number == again.number == ImageVersion(2)
            await p.play_build()
            await p.images.delete(ACCOUNT, IMAGE_ARN)
            for number in ("1.0", "2.0"):
                await p.images.report_deleted(VersionDeleted(VersionKey(ACCOUNT, "app", number)))
