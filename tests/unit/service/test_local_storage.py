"""What one account stores in the local AWS server is bounded, and costs others nothing."""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, make_server

from microvmd.api.local.headers import ACCOUNT_HEADER
from microvmd.service.local_storage import OBJECT_BYTES, StorageLimit

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MIB = 1 << 20
LIMIT = 16 * MIB
OTHER = "210987654321"


@pytest.fixture
def server() -> Iterator[BaseWSGIServer]:
    made = make_server(
        "127.0.0.1",
        0,
        StorageLimit(DomainDispatcherApplication(create_backend_app), LIMIT),
        threaded=True,
    )
    serving = threading.Thread(target=made.serve_forever)
    serving.start()
    yield made
    made.shutdown()
    serving.join()
    made.server_close()
    s3_backends.reset()


def s3_of(server: BaseWSGIServer, account: str = DEFAULT_ACCOUNT_ID) -> "S3Client":
    """As the relay asks for this account."""
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{server.port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )

    def add(request: Any, **_: object) -> None:
        request.headers[ACCOUNT_HEADER] = account

    client.meta.events.register("before-sign.s3", add)
    return client


@pytest.fixture
def s3(server: BaseWSGIServer) -> "S3Client":
    client = s3_of(server)
    client.create_bucket(Bucket="code")
    return client


def refused(call: Any, **arguments: object) -> str:
    with pytest.raises(ClientError) as error:
        call(**arguments)
    found: str = error.value.response["Error"]["Code"]
    return found


def test_objects_up_to_the_limit(server: BaseWSGIServer, s3: "S3Client") -> None:
    for number in range(3):
        s3.put_object(Bucket="code", Key=f"{number}.zip", Body=bytes(5 * MIB))
    assert refused(s3.put_object, Bucket="code", Key="more", Body=bytes(MIB)) == "EntityTooLarge"
    other = s3_of(server, OTHER)
    other.create_bucket(Bucket="theirs")
    other.put_object(Bucket="theirs", Key="own", Body=bytes(5 * MIB))
    s3.delete_object(Bucket="code", Key="0.zip")
    s3.put_object(Bucket="code", Key="more", Body=bytes(MIB))
    assert s3.get_object(Bucket="code", Key="more")["ContentLength"] == MIB


def test_the_refusal_says_what_to_do(s3: "S3Client") -> None:
    with pytest.raises(ClientError, match=r"16 MiB here: delete some, .* aws\.local_s3_mib"):
        s3.put_object(Bucket="code", Key="much", Body=bytes(LIMIT))


def test_copies_versions_and_parts_count(s3: "S3Client") -> None:
    s3.put_bucket_versioning(Bucket="code", VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket="code", Key="a", Body=bytes(5 * MIB))
    s3.put_object(Bucket="code", Key="a", Body=bytes(5 * MIB))
    source = {"Bucket": "code", "Key": "a", "CopySource": {"Bucket": "code", "Key": "a"}}
    upload = s3.create_multipart_upload(Bucket="code", Key="b")["UploadId"]
    part = {"Bucket": "code", "Key": "b", "UploadId": upload, "Body": bytes(3 * MIB)}
    s3.upload_part(PartNumber=1, **part)  # type: ignore[arg-type]
    assert refused(s3.upload_part, PartNumber=2, **part) == "EntityTooLarge"
    assert refused(s3.copy_object, **source) == "EntityTooLarge"
    s3.abort_multipart_upload(Bucket="code", Key="b", UploadId=upload)
    s3.copy_object(**{**source, "Key": "c"})  # type: ignore[arg-type]


def test_empty_objects_and_buckets_are_not_for_nothing(s3: "S3Client") -> None:
    for number in range(LIMIT // OBJECT_BYTES - 1):  # beside the bucket itself
        s3.put_object(Bucket="code", Key=str(number))
    assert refused(s3.put_object, Bucket="code", Key="one more") == "EntityTooLarge"
    assert refused(s3.create_bucket, Bucket="another") == "EntityTooLarge"


def test_many_at_once_take_no_more(s3: "S3Client") -> None:
    outcomes: list[bool] = []

    def put(number: int) -> None:
        try:
            s3.put_object(Bucket="code", Key=str(number), Body=bytes(4 * MIB))
        except ClientError:
            outcomes.append(False)
        else:
            outcomes.append(True)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert 1 <= sum(outcomes) <= 3
