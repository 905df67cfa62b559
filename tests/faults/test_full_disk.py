"""What an unmodified client is told while the disk of a real service is full."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.servicelab import REGION
from tests.serviceprocess import ACCOUNT
from tests.soaklab import SoakService, on_small_disk

pytestmark = [pytest.mark.vm, pytest.mark.faults]

DISK_MIB = 300
MOST = 500
"""Calls until the record needs a block more than it has."""


def create(service: SoakService, name: str) -> None:
    service.api.create_microvm_image(
        name=name,
        baseImageArn=f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        buildRoleArn=f"arn:aws:iam::{ACCOUNT}:role/build",
        codeArtifact={"uri": "s3://nobody/knows.zip"},
    )


def first_refused(service: SoakService) -> tuple[str, dict[str, Any]]:
    """The name of the first image that could not be kept, and the answer."""
    for number in range(MOST):
        name = f"image-{number}"
        try:
            create(service, name)
        except ClientError as error:
            return name, dict(error.response)
    raise AssertionError(f"{MOST} images on a full disk")


def test_a_call_that_cannot_be_kept_is_refused_and_may_be_repeated() -> None:
    with on_small_disk(DISK_MIB) as (service, disk):
        with disk.full():
            refused, answer = first_refused(service)
            assert answer["Error"]["Code"] == "InternalServerException"
            assert "its disk is full" in answer["Error"]["Message"]
            assert "retry-after" in answer["ResponseMetadata"]["HTTPHeaders"]
            for _ in range(3):
                with pytest.raises(ClientError):
                    create(service, refused)
            names = {item["name"] for item in service.api.list_microvm_images()["items"]}
            assert refused not in names
        create(service, refused)
        log = service.log.read_text()
        assert '"internal error"' not in log
        assert log.count("store.unavailable") == 1
