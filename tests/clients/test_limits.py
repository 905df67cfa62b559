"""What an account may do, and what the machine has room for, as clients meet it."""

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from microvmd.model.capacity import NO_ROOM
from microvmd.model.quota import Quotas
from microvmd.model.rate import RateLimits
from tests.clients.client_awscli import AwsCli
from tests.clients.client_boto3 import Boto3Client
from tests.clients.client_javascript import JavaScriptSdk
from tests.clients.live import ACCOUNT, HOLD, KEY, REGION, LiveApi, live_api
from tests.clients.outcome import Client, Outcome
from tests.clients.served import AWSCLI
from tests.unit.control.plane import PlayedMeter

pytestmark = pytest.mark.client

RATES = RateLimits({"ListMicrovms": 20.0, "ListTags": 0.5, "GetMicrovm": 1.0}, 0.5, 2.0)
ARN = "arn:aws:lambda:us-east-1:123456789012:microvm-image:none"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("limited"), RATES) as found:
        yield found


def _refusals(call: Any, **request: Any) -> list[dict[str, Any]]:
    """Six calls at once, of which one has a token and one may wait; the answers of the others."""

    def once(_: int) -> dict[str, Any]:
        try:
            answer = call(**request)
        except ClientError as error:
            return dict(error.response)
        return dict(answer)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(once, range(6)))
    refused = [found for found in answers if found["ResponseMetadata"]["HTTPStatusCode"] == 429]
    assert len(refused) >= 4
    return refused


def test_a_burst_is_slowed_down(limited: LiveApi) -> None:
    """Recorded: no ThrottlingException; the last answers come later."""
    client = limited.client("lambda-microvms")
    began = time.monotonic()
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda _: client.list_microvms(), range(40)))
    assert time.monotonic() - began >= 20 / 20 - 0.05


def test_throttling_exception(limited: LiveApi) -> None:
    client = limited.client("lambda-microvms")
    for answer in _refusals(client.list_tags, Resource=ARN):
        assert answer["Error"] == {"Code": "ThrottlingException", "Message": "Rate exceeded"}
        metadata = answer["ResponseMetadata"]
        assert 1 <= int(metadata["HTTPHeaders"]["retry-after"]) <= 2, "the next place is free then"
        assert metadata["HTTPHeaders"]["x-amzn-errortype"] == "ThrottlingException"


def test_lambda_core_has_another_name_for_it(limited: LiveApi) -> None:
    client = limited.client("lambda-core")
    for answer in _refusals(client.list_network_connectors):
        assert answer["Error"]["Code"] == "TooManyRequestsException"
        assert answer["Reason"] == "CallerRateLimitExceeded"
        assert int(answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"]) >= 1


def test_one_that_hangs_up_gives_its_place_to_the_next(limited: LiveApi) -> None:
    """Two wait; when both are gone, one who comes then waits as if they had never called."""
    path = "/2025-09-09/microvms/microvm-30d00336-db07-44f5-89c1-8571c22bef9e"
    with ExitStack() as waiting:
        _status(_send(limited, path))
        for _ in range(2):
            waiting.enter_context(closing(_send(limited, path)))
        # Both are in the queue, which has no third place, when a further one is refused.
        deadline = time.monotonic() + 10
        while _status(_send(limited, path)) != 429:
            assert time.monotonic() < deadline
    deadline = time.monotonic() + 10
    while _status(_send(limited, path)) == 429:
        assert time.monotonic() < deadline


QUOTAS = Quotas(memory_mib=2048 + 512, images=2, versions=2, builds=1)
CREATE: dict[str, Any] = {
    "baseImageArn": "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1",
    "buildRoleArn": f"arn:aws:iam::{ACCOUNT}:role/build",
    "codeArtifact": {"uri": "s3://bucket/app.zip"},
    "resources": [{"minimumMemoryInMiB": 512}],
}


def test_quotas(tmp_path: Path) -> None:
    """Each is met once, refused with 402, and makes nothing; a replay is answered all the same."""
    with live_api(tmp_path, quotas=QUOTAS) as api:
        client = api.client("lambda-microvms")
        one = client.create_microvm_image(name="one", **CREATE)["imageArn"]
        _built(client, one)
        held = client.create_microvm_image(name="held", **CREATE | {"codeArtifact": {"uri": HOLD}})
        _exceeded(
            client.create_microvm_image,
            "The maximum number of MicroVM images has been reached for this account.",
            name="three",
            **CREATE,
        )
        _exceeded(
            client.update_microvm_image,
            "The maximum number of concurrent MicroVM image builds has been reached for this "
            "account.",
            imageIdentifier=one,
            **CREATE,
        )
        runs = [
            client.run_microvm(imageIdentifier=one, clientToken=f"token-{number:04}")
            for number in range(4)
        ]
        memory = "The base maximum allocated memory limit has been reached for this account."
        _exceeded(client.run_microvm, memory, imageIdentifier=one)
        again = client.run_microvm(imageIdentifier=one, clientToken="token-0000")
        assert again["microvmId"] == runs[0]["microvmId"]
        items = client.list_microvms()["items"]
        assert {item["microvmId"] for item in items} == {run["microvmId"] for run in runs}
        assert {image["imageArn"] for image in client.list_microvm_images()["items"]} == {
            one,
            held["imageArn"],
        }


def _exceeded(call: Any, text: str, **request: Any) -> None:
    with pytest.raises(ClientError) as refused:
        call(**request)
    answer = refused.value.response
    assert answer["Error"] == {"Code": "ServiceQuotaExceededException", "Message": text}
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 402


def _built(client: Any, arn: str) -> None:
    deadline = time.monotonic() + 30
    while client.get_microvm_image(imageIdentifier=arn)["state"] in ("CREATING", "UPDATING"):
        assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def full() -> PlayedMeter:
    """The machine of ``narrow``, which has room until a test says otherwise."""
    return PlayedMeter()


@pytest.fixture(scope="module")
def narrow(full: PlayedMeter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """Has one GetMicrovmImageVersion for everybody, and one MicroVM of the least size."""
    rates = RateLimits({"GetMicrovmImageVersion": 0.001}, others=0, longest_wait=0)
    quotas = Quotas(memory_mib=512, images=2, versions=0, builds=0)
    with live_api(tmp_path_factory.mktemp("narrow"), rates, quotas, full) as found:
        yield found


@pytest.fixture(scope="module")
def ready(narrow: LiveApi) -> str:
    """An image, and the only GetMicrovmImageVersion is made."""
    client = narrow.client("lambda-microvms")
    arn = str(client.create_microvm_image(name="ready", **CREATE)["imageArn"])
    _built(client, arn)
    client.get_microvm_image_version(imageIdentifier=arn, imageVersion="1.0")
    return arn


@pytest.fixture(scope="module", params=["boto3", "awscli", "javascript"])
def anybody(
    request: pytest.FixtureRequest, narrow: LiveApi, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    if request.param == "boto3":
        client: Client = Boto3Client(narrow)
    elif request.param == "awscli":
        client = AwsCli(narrow, tmp_path_factory.mktemp("limited-cli"))
    else:
        request.getfixturevalue("javascript")
        client = JavaScriptSdk(narrow)
    yield client
    client.close()


def _told(outcome: Outcome, client: Client) -> tuple[int, str | None, str | None]:
    """Status, name and text; each SDK that has classes for errors has one for this."""
    assert outcome.typed or client.name == AWSCLI
    return outcome.status, outcome.error, outcome.message


def test_each_client_reads_a_throttling(anybody: Client, ready: str) -> None:
    outcome = anybody.call("GetMicrovmImageVersion", imageIdentifier=ready, imageVersion="1.0")
    assert _told(outcome, anybody) == (429, "ThrottlingException", "Rate exceeded")


def test_each_client_reads_a_quota(anybody: Client, ready: str) -> None:
    made = anybody.call("RunMicrovm", imageIdentifier=ready).document["microvmId"]
    outcome = anybody.call("RunMicrovm", imageIdentifier=ready)
    text = "The base maximum allocated memory limit has been reached for this account."
    assert _told(outcome, anybody) == (402, "ServiceQuotaExceededException", text)
    _gone(anybody, made)


def test_each_client_reads_that_the_machine_is_full(
    anybody: Client, ready: str, full: PlayedMeter
) -> None:
    with _no_room(full):
        outcome = anybody.call("RunMicrovm", imageIdentifier=ready)
    assert _told(outcome, anybody) == (500, "InsufficientCapacityException", NO_ROOM)
    assert anybody.items("ListMicrovms", 10, imageIdentifier=ready) == _ended(anybody, ready)

    made = anybody.call("RunMicrovm", imageIdentifier=ready).document["microvmId"]
    _wait(anybody, made, "RUNNING")
    anybody.call("SuspendMicrovm", microvmIdentifier=made)
    _wait(anybody, made, "SUSPENDED")
    with _no_room(full):
        outcome = anybody.call("ResumeMicrovm", microvmIdentifier=made)
    # Its model has no InsufficientCapacityException.
    assert _told(outcome, anybody) == (500, "InternalServerException", NO_ROOM)
    _wait(anybody, made, "SUSPENDED")
    assert anybody.call("ResumeMicrovm", microvmIdentifier=made).status == 200
    _gone(anybody, made)


@contextmanager
def _no_room(full: PlayedMeter) -> Iterator[None]:
    room, full.available_mib = full.available_mib, 0
    try:
        yield
    finally:
        full.available_mib = room


def _ended(client: Client, arn: str) -> list[dict[str, Any]]:
    items = client.items("ListMicrovms", 10, imageIdentifier=arn)
    return [item for item in items if item["state"] == "TERMINATED"]


def _wait(client: Client, microvm_id: str, state: str) -> None:
    deadline = time.monotonic() + 30
    while client.call("GetMicrovm", microvmIdentifier=microvm_id).document["state"] != state:
        assert time.monotonic() < deadline


def _gone(client: Client, microvm_id: str) -> None:
    client.call("TerminateMicrovm", microvmIdentifier=microvm_id)
    _wait(client, microvm_id, "TERMINATED")


def _send(api: LiveApi, path: str) -> http.client.HTTPConnection:
    request = AWSRequest("GET", f"{api.url}{path}")
    SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "lambda", REGION).add_auth(request)
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    headers = {"Host": urlsplit(api.url).netloc, **dict(request.headers.items())}
    connection.request("GET", path, headers=headers)
    return connection


def _status(connection: http.client.HTTPConnection) -> int:
    try:
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()
