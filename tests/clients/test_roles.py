"""A role that cannot be assumed, as boto3 sees it refused, and the raw answers."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from microvmd.cli.waiting import poll
from tests.clients.live import ACCOUNT, REGION, LiveApi
from tests.clients.raw import ask

pytestmark = pytest.mark.client

CANNOT = "We were unable to assume the role provided"
FOREIGN = "arn:aws:iam::999999999999:role/app"
OWN = f"arn:aws:iam::{ACCOUNT}:role/app"
IMAGE = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:roles"


def _create(role: str) -> dict[str, Any]:
    return {
        "name": "roles",
        "baseImageArn": f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        "buildRoleArn": role,
        "codeArtifact": {"uri": "s3://bucket/app.zip"},
    }


@pytest.fixture
def image(api: LiveApi) -> Iterator[str]:
    """Built, and deleted when no MicroVM of it lives any more."""
    client = api.client("lambda-microvms")
    client.create_microvm_image(**_create(OWN))

    def built() -> bool | None:
        return client.get_microvm_image(imageIdentifier=IMAGE)["state"] == "CREATED" or None

    def ended() -> bool | None:
        items = client.list_microvms(imageIdentifier=IMAGE)["items"]
        return all(item["state"] == "TERMINATED" for item in items) or None

    assert poll(built, limit=30)
    yield IMAGE
    assert poll(ended, limit=30)
    client.delete_microvm_image(imageIdentifier=IMAGE)


def _refused(call: Any, **request: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call(**request)
    answer = caught.value.response
    return (
        answer["ResponseMetadata"]["HTTPStatusCode"],
        answer["Error"]["Code"],
        answer["Error"]["Message"],
    )


def test_an_image_with_a_role_that_cannot_be_assumed(api: LiveApi) -> None:
    client = api.client("lambda-microvms")
    found = _refused(client.create_microvm_image, **_create(FOREIGN))
    assert found == (400, "ValidationException", CANNOT)
    assert _refused(client.get_microvm_image, imageIdentifier=IMAGE)[0] == 404, "nothing was made"


def test_a_run_with_a_role_that_cannot_be_assumed(api: LiveApi, image: str) -> None:
    client = api.client("lambda-microvms")
    found = _refused(client.run_microvm, imageIdentifier=image, executionRoleArn=FOREIGN)
    assert found == (404, "ResourceNotFoundException", CANNOT)
    microvm = client.run_microvm(imageIdentifier=image, executionRoleArn=OWN)
    client.terminate_microvm(microvmIdentifier=microvm["microvmId"])


def test_the_raw_answer(api: LiveApi) -> None:
    status, headers, body = ask(api, "POST", "/2025-09-09/microvm-images", _create(FOREIGN))
    assert (status, headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert body["message"] == CANNOT
