"""Fetching an artifact: against a real S3 and STS (moto's), and every error code by its reason."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from microvmd.build.archive import ArchiveLimits
from microvmd.build.failure import BuildFailed
from microvmd.build.source import S3Location, SourceSettings, _failure, fetch
from tests.buildlab import aws
from tests.unit.build.test_archive import pack

ROLE = "arn:aws:iam::123456789012:role/build"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with aws() as (url, client):
        client.put_object(Bucket="code", Key="a b/app?.zip", Body=pack(("app.py", b"print()")))
        client.put_object(Bucket="code", Key="text", Body=b"no zip")
        client.put_object(Bucket="code", Key="cold", Body=b"x", StorageClass="GLACIER")
        yield url


def settings(endpoint: str, limits: ArchiveLimits | None = None) -> SourceSettings:
    return SourceSettings(
        region="us-east-1",
        s3_endpoint=endpoint,
        sts_endpoint=endpoint,
        access_key="test",
        secret_key="test",
        limits=limits or ArchiveLimits(),
    )


def refusal(endpoint: str, directory: Path, uri: str, limits: ArchiveLimits | None = None) -> str:
    target = directory / "artifact.zip"
    with pytest.raises(BuildFailed) as caught:
        asyncio.run(fetch(uri, ROLE, target, settings(endpoint, limits)))
    assert not target.exists()
    return caught.value.reason


def test_an_artifact_is_fetched_and_checked(endpoint: str, tmp_path: Path) -> None:
    target = tmp_path / "artifact.zip"
    archive = asyncio.run(fetch("s3://code/a b/app?.zip", ROLE, target, settings(endpoint)))
    assert archive.path == target
    assert archive.size == target.stat().st_size
    assert archive.dockerfile == "FROM scratch\n"


def test_what_is_missing_has_its_code(endpoint: str, tmp_path: Path) -> None:
    assert refusal(endpoint, tmp_path, "s3://code/none") == (
        "S3_NO_SUCH_KEY: The object s3://code/none does not exist."
    )
    assert refusal(endpoint, tmp_path, "s3://nobucket/x").startswith("S3_NO_SUCH_BUCKET: ")
    assert refusal(endpoint, tmp_path, "s3://code/cold").startswith("S3_INVALID_OBJECT: ")
    assert refusal(endpoint, tmp_path, "s3://code/text").startswith("ARCHIVE_INVALID: ")


def test_a_download_has_a_limit(endpoint: str, tmp_path: Path) -> None:
    reason = refusal(endpoint, tmp_path, "s3://code/text", ArchiveLimits(archive_bytes=3))
    assert reason == "ARCHIVE_INVALID: s3://code/text is larger than 3 bytes."


def test_an_endpoint_that_is_down_is_our_fault(tmp_path: Path) -> None:
    reason = refusal("http://127.0.0.1:9", tmp_path, "s3://code/x")
    assert reason.startswith("INTERNAL_PLATFORM_ERROR: Fetching s3://code/x failed")


@pytest.mark.parametrize("uri", ["", "code/x", "https://code/x", "s3://code", "s3://code/", "s3:/"])
def test_another_form_of_uri_is_refused(uri: str) -> None:
    with pytest.raises(BuildFailed, match="not of the form s3://bucket/key"):
        S3Location.parse(uri)


@pytest.mark.parametrize(
    ("error", "operation", "code"),
    [
        ("NoSuchKey", "GetObject", "S3_NO_SUCH_KEY"),
        ("NoSuchBucket", "GetObject", "S3_NO_SUCH_BUCKET"),
        ("AccessDenied", "GetObject", "S3_ACCESS_DENIED"),
        ("InvalidObjectState", "GetObject", "S3_INVALID_OBJECT"),
        ("PermanentRedirect", "GetObject", "S3_CROSS_REGION_ACCESS_DENIED"),
        ("AuthorizationHeaderMalformed", "GetObject", "S3_CROSS_REGION_ACCESS_DENIED"),
        ("SlowDown", "GetObject", "INTERNAL_PLATFORM_ERROR"),
        ("AccessDenied", "AssumeRole", "S3_ACCESS_DENIED"),
    ],
)
def test_every_answer_of_s3_has_a_reason(error: str, operation: str, code: str) -> None:
    raised = ClientError({"Error": {"Code": error, "Message": ""}}, operation)
    failure = _failure(raised, S3Location("b", "k"), ROLE)
    assert failure.code == code
    assert failure.reason.startswith(f"{code}: ")


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in repr(SourceSettings("r", access_key="a", secret_key="hidden"))
