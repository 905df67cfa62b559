"""Managed images: which are offered, and how others are refused."""

import pytest

from microvmd.control.managed import MANAGED_VERSIONS, check_base, managed_arn, managed_versions
from microvmd.model.errors import NotFound, ValidationError

REGION = "eu-central-1"
ARN = managed_arn(REGION)


@pytest.mark.parametrize("version", [None, "1", "0"])
def test_offered_bases(version: str | None) -> None:
    check_base(ARN, version, REGION)


@pytest.mark.parametrize(
    ("arn", "version", "said"),
    [
        (managed_arn("us-east-1"), None, ARN),
        (ARN.replace("al2023-1", "al2022-1"), None, "is available"),
        (ARN, "2", "version 2 is available"),
        (ARN, "1.0", "version 1.0 is available"),
    ],
)
def test_what_is_not_offered_is_refused(arn: str, version: str | None, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        check_base(arn, version, REGION)


def test_versions_are_newest_first() -> None:
    assert managed_versions(ARN, REGION) == MANAGED_VERSIONS
    made = [version.created_at for version in MANAGED_VERSIONS]
    assert made == sorted(made, reverse=True)
    with pytest.raises(NotFound):
        managed_versions(managed_arn("us-east-1"), REGION)
