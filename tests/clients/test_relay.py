"""S3, STS, IAM, logs and KMS on the API's own port, by unmodified clients."""

import hashlib
import http.client
import io
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.clients.live import ACCOUNT, KEY, REGION, LiveApi

pytestmark = pytest.mark.client


@pytest.fixture(scope="session")
def bucket(api: LiveApi) -> str:
    api.client("s3").create_bucket(Bucket="sources")
    return "sources"


def _refused(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    answer = error.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


@pytest.mark.parametrize("size", [0, 1, 70_000, 40_000_000])
def test_objects_of_any_size(api: LiveApi, bucket: str, size: int) -> None:
    s3 = api.client("s3")
    key = f"dir/a b+ü~({size}).zip"
    content = hashlib.sha256(str(size).encode()).digest() * (size // 32) + b"x" * (size % 32)
    s3.upload_fileobj(io.BytesIO(content), bucket, key)
    back = s3.get_object(Bucket=bucket, Key=key)
    assert back["ContentLength"] == size
    assert hashlib.sha256(back["Body"].read()).digest() == hashlib.sha256(content).digest()
    assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == size
    listed = s3.list_objects_v2(Bucket=bucket, Prefix="dir/a b+")["Contents"]
    assert key in {item["Key"] for item in listed}
    assert s3.delete_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_ranges_metadata_and_errors(api: LiveApi, bucket: str) -> None:
    s3 = api.client("s3")
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789", Metadata={"owner": "me"})
    part = s3.get_object(Bucket=bucket, Key="k", Range="bytes=2-4")
    assert (part["Body"].read(), part["Metadata"]) == (b"234", {"owner": "me"})
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="absent")
    assert _refused(caught) == (404, "NoSuchKey")


def test_virtual_host_style(api: LiveApi, bucket: str) -> None:
    """``<bucket>.localhost``: what clients send when the endpoint is a name, not an address."""
    api.client("s3").put_object(Bucket=bucket, Key="host style", Body=b"here")
    port = urlsplit(api.url).port
    request = AWSRequest("GET", f"http://{bucket}.localhost:{port}/host%20style")
    S3SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "s3", REGION).add_auth(request)
    headers = {"Host": f"{bucket}.localhost:{port}", **dict(request.headers.items())}
    assert _raw(api, "GET", "/host%20style", headers)[::2] == (200, b"here")


def _raw(
    api: LiveApi, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_presigned_url(api: LiveApi, bucket: str, version: str) -> None:
    """``s3`` is the old way, which boto3 still takes when it is not told otherwise."""
    s3 = api.client("s3", config=Config(signature_version=version))
    api.client("s3").put_object(Bucket=bucket, Key="p", Body=b"presigned")
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "p"}, ExpiresIn=60)
    path = url.removeprefix(api.url)
    assert _raw(api, "GET", path, {})[::2] == (200, b"presigned")
    status, _, body = _raw(api, "GET", path.replace("/p?", "/k?"), {})
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True)


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_a_presigned_upload_is_no_copy(api: LiveApi, bucket: str, version: str) -> None:
    """Its holder may put bytes there, not what the signer could read."""
    api.client("s3").put_object(Bucket=bucket, Key="secret", Body=b"secret")
    s3 = api.client("s3", config=Config(signature_version=version))
    url = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "mine"}, ExpiresIn=60)
    path = url.removeprefix(api.url)
    status, _, body = _raw(api, "PUT", path, {"x-amz-copy-source": f"/{bucket}/secret"})
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True)
    assert _raw(api, "PUT", path, {}, b"bytes")[0] == 200
    stored = api.client("s3").get_object(Bucket=bucket, Key="mine")
    assert stored["Body"].read() == b"bytes"


def test_body_that_is_longer_than_it_says_is_not_stored(api: LiveApi, bucket: str) -> None:
    """What an account stores is counted by that."""
    words = {
        "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD",
        "x-amz-decoded-content-length": "1",
    }
    request = AWSRequest("PUT", f"{api.url}/{bucket}/long", data=b"a" * 100_000, headers=words)
    S3SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "s3", REGION).add_auth(request)
    headers = {"Host": urlsplit(api.url).netloc, **dict(request.headers.items())}
    status, _, body = _raw(api, "PUT", f"/{bucket}/long", headers, b"a" * 100_000)
    assert (status, b"<Code>EntityTooLarge</Code>" in body) == (400, True)
    with pytest.raises(ClientError):
        api.client("s3").head_object(Bucket=bucket, Key="long")


def test_body_that_is_not_the_signed_one_is_not_stored(api: LiveApi, bucket: str) -> None:
    request = AWSRequest("PUT", f"{api.url}/{bucket}/swapped", data=b"a" * 100_000)
    S3SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "s3", REGION).add_auth(request)
    headers = {"Host": urlsplit(api.url).netloc, **dict(request.headers.items())}
    for body in (b"b" * 100_000, b""):
        status, _, answer = _raw(api, "PUT", f"/{bucket}/swapped", headers, body)
        assert (status, b"<Code>SignatureDoesNotMatch</Code>" in answer) == (403, True)
    with pytest.raises(ClientError) as caught:
        api.client("s3").head_object(Bucket=bucket, Key="swapped")
    assert _refused(caught)[0] == 404


def test_expect_100_continue_is_answered_before_the_body(api: LiveApi, bucket: str) -> None:
    request = AWSRequest("PUT", f"{api.url}/{bucket}/expected", data=b"body")
    S3SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "s3", REGION).add_auth(request)
    where = urlsplit(api.url)
    headers = {"Host": where.netloc, "Content-Length": "4", "Expect": "100-continue"}
    lines = [f"PUT /{bucket}/expected HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {**headers, **dict(request.headers)}.items()]
    with socket.create_connection((str(where.hostname), where.port or 80), timeout=30) as plain:
        plain.sendall("\r\n".join([*lines, "", ""]).encode())
        assert plain.recv(4096).startswith(b"HTTP/1.1 100")
        plain.sendall(b"body")
        assert plain.recv(4096).startswith(b"HTTP/1.1 200")


def test_the_local_servers_own_controls_are_out_of_reach(api: LiveApi) -> None:
    s3 = api.client("s3")
    for name in ("moto-api", "latest"):
        with pytest.raises(ClientError) as caught:
            s3.put_object(Bucket=name, Key="meta-data/reset" if name == "latest" else "reset")
        assert _refused(caught) == (403, "AccessDenied")


def test_controls_are_out_of_reach_in_any_spelling(api: LiveApi) -> None:
    for path in ("/moto-api/reset", "/moto%2Dapi/reset", "/%6Doto-api/reset"):
        request = AWSRequest("POST", f"{api.url}{path}")
        S3SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "s3", REGION).add_auth(request)
        headers = {"Host": urlsplit(api.url).netloc, **dict(request.headers.items())}
        status, _, body = _raw(api, "POST", path, headers)
        assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)


def test_wrong_keys_in_each_services_manner(api: LiveApi) -> None:
    calls: list[tuple[str, str, dict[str, Any], str]] = [
        ("s3", "list_buckets", {}, "InvalidAccessKeyId"),
        ("sts", "get_caller_identity", {}, "InvalidClientTokenId"),
        ("iam", "list_roles", {}, "InvalidClientTokenId"),
        ("logs", "describe_log_groups", {}, "UnrecognizedClientException"),
        ("kms", "list_keys", {}, "UnrecognizedClientException"),
    ]
    for service, call, arguments, code in calls:
        client = api.client(service, aws_access_key_id="AKIANOBODY")
        with pytest.raises(ClientError) as caught:
            getattr(client, call)(**arguments)
        assert _refused(caught) == (403, code)


def test_account_is_one_and_the_same(api: LiveApi) -> None:
    assert api.client("sts").get_caller_identity()["Account"] == ACCOUNT


def test_assumed_role_may_call_the_api(api: LiveApi) -> None:
    iam = api.client("iam")
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = iam.create_role(RoleName="build", AssumeRolePolicyDocument=trust)["Role"]
    session = api.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="s")["Credentials"]
    allowed = {"Effect": "Allow", "Action": ["lambda:List*", "s3:List*"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
    options = {
        "aws_access_key_id": session["AccessKeyId"],
        "aws_secret_access_key": session["SecretAccessKey"],
        "aws_session_token": session["SessionToken"],
    }
    with pytest.raises(ClientError) as caught:
        api.client("lambda-microvms", **options).list_microvms()
    assert _refused(caught) == (403, "AccessDeniedException")
    iam.put_role_policy(RoleName="build", PolicyName="p", PolicyDocument=policy)
    assert api.client("lambda-microvms", **options).list_microvms()["items"] is not None
    assert api.client("s3", **options).list_buckets()["Buckets"]
    with pytest.raises(ClientError) as caught:
        api.client("lambda-microvms", **options | {"aws_session_token": "x"}).list_microvms()
    assert _refused(caught) == (403, "UnrecognizedClientException")


def test_logs_and_keys(api: LiveApi) -> None:
    logs = api.client("logs")
    logs.create_log_group(logGroupName="/aws/lambda-microvms/app")
    logs.create_log_stream(logGroupName="/aws/lambda-microvms/app", logStreamName="s")
    logs.put_log_events(
        logGroupName="/aws/lambda-microvms/app",
        logStreamName="s",
        logEvents=[{"timestamp": 1_800_000_000_000, "message": "m"}],
    )
    kms = api.client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    secret = kms.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=secret)["Plaintext"] == b"secret"
