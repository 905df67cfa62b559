"""State tables of images and builds, and what a version's request means."""

from dataclasses import replace
from typing import Any

import pytest

from microvmd.model.errors import Conflict, ValidationError
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.image import (
    BUILD_TRANSITIONS,
    IMAGE_TRANSITIONS,
    Build,
    BuildEvent,
    BuildState,
    Image,
    ImageEvent,
    ImageState,
    Version,
    VersionConfig,
    VersionState,
    VersionStatus,
    apply_build,
    apply_image,
    echo_base_version,
    latest_active,
    latest_failed,
    next_number,
)

BASE = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1"
REQUEST: dict[str, Any] = {
    "baseImageArn": BASE,
    "buildRoleArn": "arn:aws:iam::000000000000:role/build",
    "codeArtifact": {"uri": "s3://bucket/app.zip"},
}
IMAGE = Image(ImageArn("aws", "us-east-1", "0" * 12, "app"), ImageState.CREATING, 1.0, 1.0)


def a_version(number: int = 1, state: BuildState = BuildState.PENDING) -> Version:
    build = Build("b", "X86_64", "INTEL", "x86_64", 1.0, state)
    config = VersionConfig.from_request(REQUEST, "us-east-1")
    return Version("0" * 12, "app", ImageVersion(number), config, build, 1.0, 1.0)


@pytest.mark.parametrize("state", list(ImageState))
@pytest.mark.parametrize("event", list(ImageEvent))
def test_every_image_state_and_event(state: ImageState, event: ImageEvent) -> None:
    image = replace(IMAGE, state=state)
    target = IMAGE_TRANSITIONS.get((state, event))
    if target is not None:
        assert apply_image(image, event, 2.0) == replace(image, state=target, updated_at=2.0)
    elif event is ImageEvent.DELETE_REQUESTED:
        with pytest.raises(ValidationError, match="Cannot delete MicroVM image in its current"):
            apply_image(image, event, 2.0)
    else:
        with pytest.raises(Conflict, match=f"MicroVM Image is already in state: {state}"):
            apply_image(image, event, 2.0)


@pytest.mark.parametrize("state", list(BuildState))
@pytest.mark.parametrize("event", list(BuildEvent))
def test_every_build_state_and_event(state: BuildState, event: BuildEvent) -> None:
    after = apply_build(a_version(state=state), event, 2.0, reason="why")
    target = BUILD_TRANSITIONS.get((state, event))
    assert (None if after is None else after.build.state) == target


def test_success_activates_and_failure_keeps_its_reason_on_the_build() -> None:
    started = apply_build(a_version(), BuildEvent.STARTED, 2.0)
    assert started is not None
    done = apply_build(started, BuildEvent.SUCCEEDED, 3.0)
    assert done is not None
    assert (done.state, done.status, done.runnable) == (
        VersionState.SUCCESSFUL,
        VersionStatus.ACTIVE,
        True,
    )
    failed = apply_build(
        started, BuildEvent.FAILED, 3.0, reason="The container image build failed."
    )
    assert failed is not None
    assert (failed.state, failed.status) == (VersionState.FAILED, VersionStatus.INACTIVE)
    assert failed.build.reason == "The container image build failed."


def test_report_about_a_version_being_deleted_changes_nothing() -> None:
    doomed = replace(a_version(state=BuildState.IN_PROGRESS), state=VersionState.DELETING)
    assert apply_build(doomed, BuildEvent.SUCCEEDED, 2.0) is None


def test_latest_versions_and_numbers() -> None:
    good = replace(a_version(1), state=VersionState.SUCCESSFUL, status=VersionStatus.ACTIVE)
    newer = replace(good, number=ImageVersion(3), status=VersionStatus.INACTIVE)
    bad = replace(a_version(2), state=VersionState.FAILED)
    versions = [newer, bad, good]
    assert latest_active(versions) == ImageVersion(1)
    assert latest_failed(versions) == ImageVersion(2)
    assert next_number(versions) == ImageVersion(4)
    assert next_number([]) == ImageVersion(1)


def test_defaults_are_resolved() -> None:
    config = VersionConfig.from_request(REQUEST, "us-east-1")
    assert config.memory_mib == 2048
    assert config.egress == (
        "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS",
    )
    assert (config.size.peak_mib, config.size.vcpus(2)) == (8192, 2)


def test_unknown_size_is_refused_as_recorded() -> None:
    request = {**REQUEST, "resources": [{"minimumMemoryInMiB": 32768}]}
    with pytest.raises(ValidationError) as refusal:
        VersionConfig.from_request(request, "us-east-1")
    assert refusal.value.message == (
        f"The requested memory size of 32768 MiB is not supported by base MicroVM image {BASE}. "
        "Supported memory sizes in MiB are: [512, 1024, 2048, 4096, 8192]."
    )


def test_base_version_is_echoed_with_a_minor_number() -> None:
    assert echo_base_version("1") == "1.0"
    assert echo_base_version("1.0") == "1.0"
    assert echo_base_version(None) is None
