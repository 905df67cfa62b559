"""Managed images: which are offered, how others are refused, and what retiring one means."""

import asyncio
from pathlib import Path

import pytest

from microvmd.control.managed import MANAGED_VERSIONS, BaseStatus, ManagedImages
from microvmd.model.errors import NotFound, ValidationError
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, plane

MANAGED = ManagedImages("eu-central-1")
ARN = MANAGED.arn
DEPRECATED = ManagedImages("us-east-1", {"1": BaseStatus.DEPRECATED})
RECALLED = ManagedImages("us-east-1", {"1": BaseStatus.RECALLED})


@pytest.mark.parametrize(("asked", "taken"), [(None, "1"), ("1", "1"), ("0", "0")])
def test_offered_bases(asked: str | None, taken: str) -> None:
    assert MANAGED.resolve(ARN, asked) == taken


@pytest.mark.parametrize(
    ("arn", "version", "said"),
    [
        (ManagedImages("us-east-1").arn, None, ARN),
        (ARN.replace("al2023-1", "al2022-1"), None, "is available"),
        (ARN, "2", "version 2 is available"),
        (ARN, "1.0", "version 1.0 is available"),
    ],
)
def test_what_is_not_offered_is_refused(arn: str, version: str | None, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MANAGED.resolve(arn, version)


def test_versions_are_newest_first() -> None:
    assert MANAGED.versions(ARN) == MANAGED_VERSIONS
    made = [version.created_at for version in MANAGED_VERSIONS]
    assert made == sorted(made, reverse=True)
    with pytest.raises(NotFound):
        MANAGED.versions(ManagedImages("us-east-1").arn)


def test_a_deprecated_version_still_builds_when_named() -> None:
    assert DEPRECATED.resolve(DEPRECATED.arn, None) == "0"
    assert DEPRECATED.resolve(DEPRECATED.arn, "1") == "1"
    DEPRECATED.check_run("1")


def test_the_default_is_a_deprecated_one_where_nothing_newer_is_left() -> None:
    managed = ManagedImages("us-east-1", {"0": BaseStatus.RECALLED, "1": BaseStatus.DEPRECATED})
    assert managed.resolve(managed.arn, None) == "1"


def test_a_recalled_version_neither_builds_nor_runs() -> None:
    assert [version.status for version in RECALLED.all_versions] == ["RECALLED", "AVAILABLE"]
    with pytest.raises(ValidationError, match="version 1 is available"):
        RECALLED.resolve(RECALLED.arn, "1")
    nothing = ManagedImages("us-east-1", dict.fromkeys("01", BaseStatus.RECALLED))
    with pytest.raises(ValidationError, match=f"arn {nothing.arn} is available"):
        nothing.resolve(nothing.arn, None)


def test_a_recall_stops_runs_of_what_was_built_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with plane(tmp_path) as before:
            await before.images.create(ACCOUNT, CREATE)
            await before.play_build()
        async with plane(tmp_path, RECALLED) as after:
            with pytest.raises(ValidationError, match="has been recalled"):
                await after.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})

    asyncio.run(scenario())
