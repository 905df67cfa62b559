"""Images: create, update, get, list, delete."""

import time
from collections.abc import Mapping
from typing import Any

from tests.clients.exercises.registry import (
    BASE,
    BUILD_ROLE,
    IMAGE,
    MANAGED,
    World,
    exercise,
    image_arn,
)
from tests.clients.live import FAIL, HOLD
from tests.clients.outcome import Client, Outcome, instant
from tests.clients.served import BOTO3

DEFAULTS = {
    "baseImageVersion": "1.0",
    "egressNetworkConnectors": [f"{MANAGED}:INTERNET_EGRESS"],
    "resources": [{"minimumMemoryInMiB": 2048}],
}
UNSET = ("description", "hooks", "environmentVariables", "logging", "kmsKeyIdentifier")


def everything(world: World) -> dict[str, Any]:
    """Every member of an image's configuration, none with its default."""
    return {
        "baseImageArn": BASE,
        "baseImageVersion": "1",
        "buildRoleArn": BUILD_ROLE,
        "description": 'Größe "XL"; two\nlines',
        "codeArtifact": {"uri": "s3://bucket/path-to/app+1.zip"},
        "logging": {"cloudWatch": {"logGroup": "/team/builds", "logStream": "nightly [1]"}},
        "egressNetworkConnectors": [f"{MANAGED}:INTERNET_EGRESS"],
        "cpuConfigurations": [{"architecture": "ARM_64"}],
        "resources": [{"minimumMemoryInMiB": 512}],
        "additionalOsCapabilities": ["ALL"],
        "hooks": {
            "port": 9000,
            "microvmHooks": {
                "run": "ENABLED",
                "runTimeoutInSeconds": 60,
                "resume": "ENABLED",
                "resumeTimeoutInSeconds": 2,
                "suspend": "ENABLED",
                "suspendTimeoutInSeconds": 3,
                "terminate": "DISABLED",
                "terminateTimeoutInSeconds": 4,
            },
            "microvmImageHooks": {
                "ready": "ENABLED",
                "readyTimeoutInSeconds": 3600,
                "validate": "ENABLED",
                "validateTimeoutInSeconds": 30,
            },
        },
        "environmentVariables": {"MODE": "test", "EMPTY": "", "QUOTED": 'it\'s "so" = ok'},
        "kmsKeyIdentifier": world.key,
    }


def echoed(sent: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Every member that was sent comes back as it was; a base image version gets its minor."""
    for name, value in sent.items():
        assert document[name] == ("1.0" if name == "baseImageVersion" else value), name


def sendable(aws: Client, operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """All members that this client's model has; ours has them all."""
    found = aws.model.sendable(operation, members)
    assert aws.name != BOTO3 or found == members
    return found


def refused(outcome: Outcome, status: int, error: str, text: str) -> None:
    assert outcome.refusal == (status, error), outcome
    assert outcome.message is not None
    assert text in outcome.message, outcome


@exercise("CreateMicrovmImage")
def create(aws: Client, world: World) -> None:
    name = world.name()
    made = aws.call("CreateMicrovmImage", name=name, **IMAGE)
    assert made.status == 201
    echoed(IMAGE, made.document)
    echoed(DEFAULTS, {**made.document, "baseImageVersion": "1.0"})
    wanted = {"name": name, "imageArn": image_arn(name), "imageVersion": "1.0", "state": "CREATING"}
    assert wanted.items() <= made.document.items()
    assert abs(instant(made.document["createdAt"]) - time.time()) < 60
    assert not made.document.keys() & {*UNSET, "latestActiveImageVersion", "tags"}
    refused(
        aws.call("CreateMicrovmImage", name=name, **IMAGE),
        400,
        "ValidationException",
        f"A MicroVM image with the name '{name}' already exists in this account",
    )

    tags = {"team": "a", "empty": ""}
    whole = sendable(
        aws,
        "CreateMicrovmImage",
        {**everything(world), "name": world.name("all"), "tags": tags},
    )
    made = aws.call("CreateMicrovmImage", **whole, clientToken=whole["name"])
    assert made.status == 201
    echoed({name: value for name, value in whole.items() if name != "tags"}, made.document)
    again = aws.call("CreateMicrovmImage", **whole, clientToken=whole["name"])
    assert again.document["createdAt"] == made.document["createdAt"]
    other = aws.call("CreateMicrovmImage", **whole | {"name": "x"}, clientToken=whole["name"])
    assert other.refusal == (409, "ConflictException")
    refused(
        aws.call("CreateMicrovmImage", name="no blanks", **IMAGE),
        400,
        "ValidationException",
        "1 validation error detected: Value 'no blanks' at 'name' failed to satisfy constraint",
    )


@exercise("UpdateMicrovmImage")
def update(aws: Client, world: World) -> None:
    arn = world.image()
    made = aws.call("UpdateMicrovmImage", imageIdentifier=arn, **IMAGE)
    assert made.status == 200
    wanted = {
        "imageArn": arn,
        "imageVersion": "2.0",
        "state": "UPDATING",
        "latestActiveImageVersion": "1.0",
    }
    assert wanted.items() <= made.document.items()
    assert instant(made.document["updatedAt"]) >= instant(made.document["createdAt"])
    world.until("GetMicrovmImage", "UPDATED", imageIdentifier=arn)

    whole = sendable(aws, "UpdateMicrovmImage", everything(world))
    made = aws.call("UpdateMicrovmImage", imageIdentifier=arn, **whole, clientToken="third")
    assert made.document["imageVersion"] == "3.0"
    echoed(whole, made.document)
    world.until("GetMicrovmImage", "UPDATED", imageIdentifier=arn)
    again = aws.call("UpdateMicrovmImage", imageIdentifier=arn, **whole, clientToken="third")
    assert again.document["imageVersion"] == "3.0"

    ghost = image_arn("ghost")
    refused(
        aws.call("UpdateMicrovmImage", imageIdentifier=ghost, **IMAGE),
        404,
        "ResourceNotFoundException",
        f"MicroVMImage not found for MicroVMImageID: {ghost}",
    )
    held = world.image()
    assert aws.call(
        "UpdateMicrovmImage", imageIdentifier=held, **IMAGE | {"codeArtifact": {"uri": HOLD}}
    ).document["state"] == ("UPDATING")
    refused(
        aws.call("UpdateMicrovmImage", imageIdentifier=held, **IMAGE),
        409,
        "ConflictException",
        "UPDATING",
    )


@exercise("GetMicrovmImage")
def get(aws: Client, world: World) -> None:
    arn = world.image(tags={"team": "a"})
    found = aws.call("GetMicrovmImage", imageIdentifier=arn)
    assert found.status == 200
    arranged = world.arrange.call("GetMicrovmImage", imageIdentifier=arn).document
    for name in ("createdAt", "updatedAt"):
        assert abs(instant(found.document[name]) - instant(arranged[name])) < 0.001
    assert {k: v for k, v in found.document.items() if not k.endswith("At")} == {
        "imageArn": arn,
        "name": arn.rpartition(":")[2],
        "state": "CREATED",
        "latestActiveImageVersion": "1.0",
        "tags": {"team": "a"},
    }
    failed = world.unbuilt_image(name=world.name(), codeArtifact={"uri": FAIL})
    world.until("GetMicrovmImage", "CREATE_FAILED", imageIdentifier=failed)
    document = aws.call("GetMicrovmImage", imageIdentifier=failed).document
    assert document["latestFailedImageVersion"] == "1.0"
    assert "latestActiveImageVersion" not in document
    for identifier, status, error in (
        (image_arn("ghost"), 404, "ResourceNotFoundException"),
        ("ghost", 400, "ValidationException"),
        (image_arn("ghost").replace("image:", "image/"), 403, "AccessDeniedException"),
    ):
        assert aws.call("GetMicrovmImage", imageIdentifier=identifier).refusal == (status, error)


@exercise("ListMicrovmImages")
def list_images(aws: Client, world: World) -> None:
    # First in the alphabet: a filter comes after the cut into pages, which there may be many of.
    names = sorted(world.name(f"0-{aws.name[0]}-listed") for _ in range(3))
    for name in names:
        world.image(name)
    assert aws.call("ListMicrovmImages").status == 200
    first = aws.call("ListMicrovmImages", maxResults=1)
    assert len(first.document["items"]) == 1
    following = aws.call(
        "ListMicrovmImages",
        maxResults=50,
        nextToken=first.document["nextToken"],
        nameFilter=names[1],
    )
    (item,) = following.document["items"]
    assert item["name"] == names[1]
    assert item.keys() == {"imageArn", "name", "state", "latestActiveImageVersion", "createdAt"}
    listed = aws.items("ListMicrovmImages", 2, nameFilter=names[0][:10])
    assert set(names) <= {item["name"] for item in listed}
    for members in ({"maxResults": 51}, {"nextToken": "made-up"}):
        outcome = aws.call("ListMicrovmImages", **members)
        assert outcome.refusal == (400, "ValidationException"), members


@exercise("DeleteMicrovmImage")
def delete(aws: Client, world: World) -> None:
    arn = world.image()
    microvm = world.microvm(arn)
    refused(
        aws.call("DeleteMicrovmImage", imageIdentifier=arn),
        400,
        "ValidationException",
        "Cannot delete microvm image with running microvms.",
    )
    world.arrange.call("TerminateMicrovm", microvmIdentifier=microvm)
    world.until("GetMicrovm", "TERMINATED", microvmIdentifier=microvm)
    gone = aws.call("DeleteMicrovmImage", imageIdentifier=arn)
    assert gone.status == 200
    assert gone.document == {"imageIdentifier": arn, "state": "DELETING"}
    world.until_gone("GetMicrovmImage", imageIdentifier=arn)

    building = world.unbuilt_image(name=world.name(), codeArtifact={"uri": HOLD})
    refused(
        aws.call("DeleteMicrovmImage", imageIdentifier=building),
        400,
        "ValidationException",
        "Cannot delete MicroVM image in its current state",
    )
    assert aws.call("DeleteMicrovmImage", imageIdentifier="ghost").refusal == (
        400,
        "ValidationException",
    )
