"""Sending lines to CloudWatch Logs (moto's), and what each refusal of it means."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest

from microvmd.messages.node import LogDelivery
from microvmd.node.aws_access import AwsAccess, Threads
from microvmd.node.cloudwatch import CloudWatchLogs, DeliveryDenied, DeliveryFailed
from microvmd.node.log_files import Entry
from microvmd.node.roles import RoleCredentials
from tests.awslab import refusing
from tests.buildlab import aws

if TYPE_CHECKING:
    from types_boto3_logs import CloudWatchLogsClient

pytestmark = pytest.mark.anyio

NOW = 1_795_000_000.0
ROLE = RoleCredentials("ASIAX", "s", "t", NOW, NOW + 3600)
TO = LogDelivery("/aws/lambda-microvms/app", "2026/01/01[1.0]microvm-1", "role")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with aws() as (found, _):
        yield found


def client(url: str) -> "CloudWatchLogsClient":
    return boto3.client(
        "logs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


async def send(url: str, to: LogDelivery, *lines: str) -> None:
    with Threads("logs", 1) as threads:
        sink = CloudWatchLogs(AwsAccess("us-east-1", url, url), threads)
        await sink.send(to, ROLE, [Entry(time.time(), line) for line in lines])


def lines(url: str, to: LogDelivery) -> list[str]:
    found = client(url).get_log_events(
        logGroupName=to.group, logStreamName=to.stream, startFromHead=True
    )
    return [event["message"] for event in found["events"]]


async def test_group_and_stream_are_made_when_they_are_missing(url: str) -> None:
    await send(url, TO, "one", "", "two")
    await send(url, TO, "three")
    assert lines(url, TO) == ["one", " ", "two", "three"]
    other = LogDelivery(TO.group, "another stream", "role")
    await send(url, other, "four")
    assert lines(url, other) == ["four"]


async def test_a_stream_that_was_deleted_is_made_again(url: str) -> None:
    to = LogDelivery("/deleted", "s", "role")
    await send(url, to, "one")
    client(url).delete_log_group(logGroupName=to.group)
    await send(url, to, "two")
    assert lines(url, to) == ["two"]


async def test_an_endpoint_that_is_down() -> None:
    with pytest.raises(DeliveryFailed):
        await send("http://127.0.0.1:9", TO, "one")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDeniedException", DeliveryDenied),
        ("ThrottlingException", DeliveryFailed),
        ("ExpiredTokenException", DeliveryFailed),
        ("InvalidParameterException", None),
        ("DataAlreadyAcceptedException", None),
    ],
)
async def test_what_a_refusal_means(code: str, kind: type[Exception] | None) -> None:
    with refusing(code) as refusal:
        if kind is None:
            await send(refusal.url, TO, "one")
        else:
            with pytest.raises(kind, match=code):
                await send(refusal.url, TO, "one")
    assert refusal.calls == ["Logs_20140328.PutLogEvents"]
