"""Versions of images, their builds, and the images that the platform offers as a base."""

from tests.clients.exercises.images import echoed, everything, refused
from tests.clients.exercises.registry import BASE, World, exercise, image_arn
from tests.clients.live import FAIL
from tests.clients.outcome import Client, instant

NOT_FOUND = (404, "ResourceNotFoundException")
INVALID = (400, "ValidationException")


def same_instant(one: object, other: object) -> bool:
    return abs(instant(one) - instant(other)) < 0.001


@exercise("GetMicrovmImageVersion")
def get_version(aws: Client, world: World) -> None:
    whole = everything(world)
    arn = world.image(**whole)
    found = aws.call("GetMicrovmImageVersion", imageIdentifier=arn, imageVersion="1.0")
    assert found.status == 200
    times = {name: found.document.pop(name) for name in ("createdAt", "updatedAt")}
    arranged = world.arrange.call(
        "GetMicrovmImageVersion", imageIdentifier=arn, imageVersion="1.0"
    ).document
    assert all(same_instant(times[name], arranged[name]) for name in times)
    assert found.document == aws.model.shown("GetMicrovmImageVersion", whole) | {
        "baseImageVersion": "1.0",
        "imageArn": arn,
        "imageVersion": "1.0",
        "state": "SUCCESSFUL",
        "status": "ACTIVE",
    }
    absent = aws.call("GetMicrovmImageVersion", imageIdentifier=arn, imageVersion="9.0")
    assert absent.refusal == NOT_FOUND
    absent = aws.call(
        "GetMicrovmImageVersion", imageIdentifier=image_arn("ghost"), imageVersion="1.0"
    )
    assert absent.refusal == NOT_FOUND


@exercise("ListMicrovmImageVersions")
def list_versions(aws: Client, world: World) -> None:
    arn = world.image()
    world.second_version(arn)
    listed = aws.call("ListMicrovmImageVersions", imageIdentifier=arn)
    assert listed.status == 200
    assert [item["imageVersion"] for item in listed.document["items"]] == ["2.0", "1.0"]
    first = aws.call("ListMicrovmImageVersions", imageIdentifier=arn, maxResults=1).document
    second = aws.call(
        "ListMicrovmImageVersions",
        imageIdentifier=arn,
        maxResults=1,
        nextToken=first["nextToken"],
    ).document
    assert [item["imageVersion"] for item in second["items"]] == ["1.0"]
    assert "nextToken" not in second
    paged = aws.items("ListMicrovmImageVersions", 1, imageIdentifier=arn)
    assert [item["imageVersion"] for item in paged] == ["2.0", "1.0"]
    absent = aws.call("ListMicrovmImageVersions", imageIdentifier=image_arn("ghost"))
    assert absent.refusal == NOT_FOUND
    many = aws.call("ListMicrovmImageVersions", imageIdentifier=arn, maxResults=51)
    assert many.refusal == INVALID


@exercise("UpdateMicrovmImageVersion")
def update_version(aws: Client, world: World) -> None:
    arn = world.image()
    world.second_version(arn)
    for status, newest in (("INACTIVE", "1.0"), ("ACTIVE", "2.0")):
        changed = aws.call(
            "UpdateMicrovmImageVersion", imageIdentifier=arn, imageVersion="2.0", status=status
        )
        image = world.arrange.call("GetMicrovmImage", imageIdentifier=arn)
        assert image.document["latestActiveImageVersion"] == newest
        assert changed.status == 200
        assert changed.document["status"] == status
        assert changed.document["state"] == "SUCCESSFUL"
        assert instant(changed.document["updatedAt"]) >= instant(changed.document["createdAt"])
    absent = aws.call(
        "UpdateMicrovmImageVersion", imageIdentifier=arn, imageVersion="9.0", status="ACTIVE"
    )
    assert absent.refusal == NOT_FOUND


@exercise("DeleteMicrovmImageVersion")
def delete_version(aws: Client, world: World) -> None:
    arn = world.image()
    world.second_version(arn)
    gone = aws.call("DeleteMicrovmImageVersion", imageIdentifier=arn, imageVersion="1.0")
    assert gone.status == 200
    assert gone.document == {"imageIdentifier": arn, "imageVersion": "1.0", "state": "DELETING"}
    last = aws.call("DeleteMicrovmImageVersion", imageIdentifier=arn, imageVersion="2.0")
    assert last.refusal == (409, "ConflictException")
    absent = aws.call(
        "DeleteMicrovmImageVersion", imageIdentifier=image_arn("ghost"), imageVersion="1.0"
    )
    assert absent.refusal == NOT_FOUND


@exercise("ListMicrovmImageBuilds")
def list_builds(aws: Client, world: World) -> None:
    arn = world.unbuilt_image(name=world.name(), codeArtifact={"uri": FAIL})
    world.until("GetMicrovmImage", "CREATE_FAILED", imageIdentifier=arn)
    which = {"imageIdentifier": arn, "imageVersion": "1.0"}
    listed = aws.call("ListMicrovmImageBuilds", **which)
    assert listed.status == 200
    (item,) = listed.document["items"]
    assert (item["imageArn"], item["imageVersion"]) == (arn, "1.0")
    assert (item["buildState"], item["stateReason"]) == (
        "FAILED",
        "The container image build failed.",
    )
    machine = {name: item[name] for name in ("architecture", "chipset", "chipsetGeneration")}
    assert aws.call("ListMicrovmImageBuilds", **which, **machine, maxResults=1).document["items"]
    other = "ARM_64" if machine["architecture"] == "X86_64" else "X86_64"
    assert not aws.call("ListMicrovmImageBuilds", **which, architecture=other).document["items"]
    assert len(aws.items("ListMicrovmImageBuilds", 1, **which)) == 1
    absent = aws.call("ListMicrovmImageBuilds", **which | {"imageVersion": "9.0"})
    assert absent.refusal == NOT_FOUND
    wrong = aws.call("ListMicrovmImageBuilds", **which, architecture="Z80")
    assert wrong.refusal == INVALID


@exercise("GetMicrovmImageBuild")
def get_build(aws: Client, world: World) -> None:
    arn = world.image()
    which = {"imageIdentifier": arn, "imageVersion": "1.0"}
    (item,) = world.arrange.call("ListMicrovmImageBuilds", **which).document["items"]
    found = aws.call("GetMicrovmImageBuild", **which, buildId=item["buildId"])
    assert found.status == 200
    assert same_instant(found.document["createdAt"], item["createdAt"])
    assert found.document["buildState"] == "SUCCESSFUL"
    assert found.document["snapshotBuild"] == {
        "memorySnapshotSizeInBytes": 609_087_488,
        "codeInstallSizeInBytes": 186_400_768,
        "diskSnapshotSizeInBytes": 25_600_000,
    }
    absent = aws.call(
        "GetMicrovmImageBuild", **which, buildId="00000000-0000-4000-8000-000000000000"
    )
    assert absent.refusal == NOT_FOUND


@exercise("ListManagedMicrovmImages")
def list_managed(aws: Client, world: World) -> None:
    listed = aws.call("ListManagedMicrovmImages")
    assert listed.status == 200
    assert BASE in [item["imageArn"] for item in listed.document["items"]]
    assert aws.call("ListManagedMicrovmImages", maxResults=1).document["items"]
    assert BASE in [item["imageArn"] for item in aws.items("ListManagedMicrovmImages", 1)]
    for members in ({"maxResults": 51}, {"nextToken": "made-up"}):
        assert aws.call("ListManagedMicrovmImages", **members).refusal == INVALID


@exercise("ListManagedMicrovmImageVersions")
def list_managed_versions(aws: Client, world: World) -> None:
    first = aws.call("ListManagedMicrovmImageVersions", imageIdentifier=BASE, maxResults=1)
    assert first.status == 200
    (newest,) = first.document["items"]
    wanted = {
        "imageVersion": "1",
        "status": "AVAILABLE",
        "supportedCpuConfigurations": [{"architecture": "ARM_64"}, {"architecture": "X86_64"}],
    }
    echoed(aws.model.known("ManagedMicrovmImageVersion", wanted), newest)
    following = aws.call(
        "ListManagedMicrovmImageVersions",
        imageIdentifier=BASE,
        maxResults=1,
        nextToken=first.document["nextToken"],
    )
    assert [item["imageVersion"] for item in following.document["items"]] == ["0"]
    paged = aws.items("ListManagedMicrovmImageVersions", 1, imageIdentifier=BASE)
    assert [item["imageVersion"] for item in paged] == ["1", "0"]
    ghost = BASE.replace("al2023-1", "ghost")
    refused(aws.call("ListManagedMicrovmImageVersions", imageIdentifier=ghost), *NOT_FOUND, "ghost")
