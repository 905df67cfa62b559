"""What the shell offers after TAB, asked of a real API; and nothing where there is none."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import Stubber

from microvmd.cli import completion


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """botocore's own stand-in for a server: it checks answers by the model."""
    import boto3

    client = boto3.client(
        "lambda-microvms",
        region_name="us-east-1",
        aws_access_key_id="AKIA",
        aws_secret_access_key="secret",
    )
    monkeypatch.setattr(completion, "_client", lambda: client)
    with Stubber(client) as stubber:
        yield stubber


def _item(name: str, state: str) -> dict[str, Any]:
    arn = "arn:aws:lambda:us-east-1:000000000000:microvm-image:app"
    return {
        "microvmId": name,
        "state": state,
        "imageArn": arn,
        "imageVersion": "1.0",
        "startedAt": datetime.now(UTC),
    }


@pytest.mark.parametrize("begin", ["", "12", "microvm-12"])
def test_microvms_that_live(answers: Stubber, begin: str) -> None:
    items = [_item("microvm-12ab", "RUNNING"), _item("microvm-12cd", "TERMINATED")]
    answers.add_response("list_microvms", {"items": items})
    assert completion.microvms(begin) == [("microvm-12ab", "RUNNING app")]


def test_images(answers: Stubber) -> None:
    moment = datetime.now(UTC)
    items = [
        {
            "imageArn": "arn:aws:lambda:us-east-1:000000000000:microvm-image:" + name,
            "name": name,
            "state": "CREATED",
            "createdAt": moment,
        }
        for name in ("app", "other")
    ]
    answers.add_response("list_microvm_images", {"items": items})
    assert completion.images("a") == [("app", "CREATED")]


def test_no_service_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROVMD_PROFILE", "nobody-has-this")
    assert completion.microvms("") == []
    assert completion.images("") == []
