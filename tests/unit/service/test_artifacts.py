"""Artifacts lie where their content says, and get there with the rights of who sends them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from microvmd.api.credentials import Identity
from microvmd.model.errors import InternalError, NotFound, QuotaExceeded
from microvmd.service.artifacts import UPLOADS_AT_ONCE, Artifacts, upload
from microvmd.settings.settings import ApiSettings, AwsSettings, Settings
from tests.lanes import free_port

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ACCOUNT = "111122223333"
KEY = Identity("AKIA", "secret", ACCOUNT)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator["S3Client"]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield boto3.client("s3", region_name="eu-west-1")


def test_upload_is_by_content(s3: "S3Client") -> None:
    uri, sent = upload(s3, ACCOUNT, "eu-west-1", "hello", io.BytesIO(b"one"))
    assert sent
    assert uri.startswith(f"s3://microvmd-artifacts-{ACCOUNT}-eu-west-1/hello/")
    again = upload(s3, ACCOUNT, "eu-west-1", "hello", io.BytesIO(b"one"))
    assert again == (uri, False)
    other, sent = upload(s3, ACCOUNT, "eu-west-1", "hello", io.BytesIO(b"two"))
    assert sent
    assert other != uri


def _settings(directory: Path, *, local: bool = True) -> Settings:
    api = ApiSettings(port=free_port())
    url = None if local else "http://127.0.0.1:1"
    aws = AwsSettings(local=local, s3_endpoint=url, sts_endpoint=url)
    return Settings(root=directory, aws=aws, api=api)


@pytest.mark.anyio
async def test_an_s3_that_does_not_answer(tmp_path: Path) -> None:
    found = Artifacts(_settings(tmp_path))
    with pytest.raises(InternalError, match="does not answer"):
        await found.put(KEY, "app", io.BytesIO(b"x"))


@pytest.mark.anyio
async def test_few_uploads_at_once(tmp_path: Path) -> None:
    found = Artifacts(_settings(tmp_path))
    held = [found.file() for _ in range(UPLOADS_AT_ONCE)]
    for each in held:
        await each.__aenter__()
    with pytest.raises(QuotaExceeded):
        async with found.file():
            pass
    for each in held:
        await each.__aexit__(None, None, None)
    async with found.file() as file:
        file.write(b"x")


@pytest.mark.anyio
async def test_examples(tmp_path: Path) -> None:
    found = Artifacts(_settings(tmp_path))
    assert "hello" in found.examples
    with pytest.raises(NotFound):
        await found.put_example(KEY, "../hello")
    assert Artifacts(_settings(tmp_path), tmp_path / "none").examples == {}


@pytest.mark.anyio
async def test_an_example_that_cannot_be_sent_says_which_file(tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "broken"
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / "gone").symlink_to("nowhere")
    found = Artifacts(_settings(tmp_path), tmp_path / "examples")
    with pytest.raises(InternalError, match="gone is a link to nothing"):
        await found.put_example(KEY, "broken")


def test_a_real_s3_does_not_know_our_callers(tmp_path: Path) -> None:
    found = Artifacts(_settings(tmp_path, local=False))
    assert not found.offered
    assert not found.examples
