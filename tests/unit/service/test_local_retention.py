"""The local AWS server holds so much of logs and roles, and drops what is oldest."""

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws
from moto.core.utils import unix_time_millis, utcnow
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from microvmd.service.local_retention import (
    EVENT_BYTES,
    STREAM_BYTES,
    drop_expired_roles,
    trim_logs,
)

if TYPE_CHECKING:
    from types_boto3_logs import CloudWatchLogsClient

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/app"
REGION = "us-east-1"
SIZE = 100 + EVENT_BYTES


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setitem(os.environ, name, "test")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield


@pytest.fixture
def logs() -> "CloudWatchLogsClient":
    client = boto3.client("logs", region_name=REGION)
    for group in ("a", "b"):
        client.create_log_group(logGroupName=group)
    return client


def write(logs: "CloudWatchLogsClient", group: str, stream: str, count: int) -> None:
    """Events of 100 bytes that count from 0."""
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    now = int(unix_time_millis(utcnow()))
    logs.put_log_events(
        logGroupName=group,
        logStreamName=stream,
        logEvents=[{"timestamp": now, "message": f"{number:0100}"} for number in range(count)],
    )


def room(streams: int, events: int) -> int:
    return streams * STREAM_BYTES + events * SIZE


def left(logs: "CloudWatchLogsClient") -> dict[str, list[int]]:
    """Numbers of the events in each stream."""
    found = {}
    for group in ("a", "b"):
        for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]:
            name = stream["logStreamName"]
            events = logs.get_log_events(
                logGroupName=group, logStreamName=name, startFromHead=True
            )["events"]
            found[name] = [int(event["message"]) for event in events]
    return found


def test_what_fits_stays(logs: "CloudWatchLogsClient") -> None:
    write(logs, "a", "one", 5)
    write(logs, "b", "two", 5)
    trim_logs(room(2, 10))
    assert left(logs) == {"one": list(range(5)), "two": list(range(5))}


def test_streams_that_were_written_to_least_recently_go_first(
    logs: "CloudWatchLogsClient",
) -> None:
    write(logs, "b", "one", 5)
    write(logs, "a", "two", 5)
    write(logs, "a", "three", 5)
    trim_logs(room(2, 8))
    assert left(logs) == {"two": [2, 3, 4], "three": list(range(5))}


def test_one_stream_loses_its_oldest_events(logs: "CloudWatchLogsClient") -> None:
    write(logs, "a", "one", 100)
    trim_logs(room(1, 10))
    assert left(logs) == {"one": list(range(90, 100))}
    trim_logs(0)
    assert left(logs) == {"one": []}


def test_sessions_of_roles_go_when_they_have_expired() -> None:
    sts = boto3.client("sts", region_name=REGION)
    keys = [
        sts.assume_role(RoleArn=ROLE, RoleSessionName=name)["Credentials"]["AccessKeyId"]
        for name in ("old", "new")
    ]
    roles = sts_backends[ACCOUNT]["aws"].assumed_roles
    roles[0].expiration = utcnow() - timedelta(seconds=1)
    drop_expired_roles()
    assert [role.session_name for role in roles] == ["new"]
    known = iam_backends[ACCOUNT]["aws"].access_keys
    assert [key in known for key in keys] == [False, True]
