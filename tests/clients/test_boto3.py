"""The whole surface by an unmodified boto3, against the running API."""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.clients.live import ACCOUNT, FAIL, REGION, LiveApi

pytestmark = pytest.mark.client

_BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
_ROLE = f"arn:aws:iam::{ACCOUNT}:role/build"
_NAMES = (f"image-{number}" for number in itertools.count())
_NULL = "failed to satisfy constraint: Member must not be null"


@pytest.fixture(scope="session")
def client(api: LiveApi) -> Iterator[Any]:
    found = api.client("lambda-microvms")
    yield found
    found.close()


def _arn(name: str) -> str:
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:{name}"


def _until(ask: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """Poll as clients of this API do; there is no waiter in it."""
    deadline = time.monotonic() + 30
    while not wanted(found := ask()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def _create(client: Any, **options: Any) -> str:
    created = client.create_microvm_image(
        **{
            "name": next(_NAMES),
            "baseImageArn": _BASE,
            "buildRoleArn": _ROLE,
            "codeArtifact": {"uri": "s3://bucket/app.zip"},
            **options,
        }
    )
    arn: str = created["imageArn"]
    _until(
        lambda: client.get_microvm_image(imageIdentifier=arn)["state"],
        lambda state: state not in ("CREATING", "UPDATING"),
    )
    return arn


def _run(client: Any, arn: str, **options: Any) -> str:
    microvm: str = client.run_microvm(imageIdentifier=arn, **options)["microvmId"]
    _settled(client, microvm, "RUNNING")
    return microvm


def _settled(client: Any, microvm: str, state: str) -> dict[str, Any]:
    found: dict[str, Any] = _until(
        lambda: client.get_microvm(microvmIdentifier=microvm), lambda vm: vm["state"] == state
    )
    return found


def _error(call: Callable[[], object]) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    return status, answer["Error"]["Code"], answer["Error"]["Message"]


def test_image_life(client: Any) -> None:
    created = client.create_microvm_image(
        name="life",
        baseImageArn=_BASE,
        baseImageVersion="1",
        buildRoleArn=_ROLE,
        codeArtifact={"uri": "s3://bucket/app.zip"},
        tags={"team": "a"},
        environmentVariables={"A": "1"},
        hooks={"port": 9000, "microvmImageHooks": {"ready": "ENABLED"}},
        logging={"cloudWatch": {"logGroup": "/my/group"}},
        cpuConfigurations=[{"architecture": "ARM_64"}],
    )
    assert created["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert created["imageArn"] == _arn("life")
    assert (created["state"], created["imageVersion"]) == ("CREATING", "1.0")
    assert created["baseImageVersion"] == "1.0"
    assert created["resources"] == [{"minimumMemoryInMiB": 2048}]
    assert created["egressNetworkConnectors"] == [
        f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:INTERNET_EGRESS"
    ]
    assert created["hooks"] == {"port": 9000, "microvmImageHooks": {"ready": "ENABLED"}}
    image = _until(
        lambda: client.get_microvm_image(imageIdentifier=_arn("life")),
        lambda found: found["state"] == "CREATED",
    )
    assert image["latestActiveImageVersion"] == "1.0"
    assert image["tags"] == {"team": "a"}
    version = client.get_microvm_image_version(imageIdentifier=_arn("life"), imageVersion="1.0")
    assert (version["state"], version["status"]) == ("SUCCESSFUL", "ACTIVE")
    assert version["environmentVariables"] == {"A": "1"}
    assert version["logging"] == {"cloudWatch": {"logGroup": "/my/group"}}
    builds = client.list_microvm_image_builds(imageIdentifier=_arn("life"), imageVersion="1.0")
    build = client.get_microvm_image_build(
        imageIdentifier=_arn("life"), imageVersion="1.0", buildId=builds["items"][0]["buildId"]
    )
    assert build["buildState"] == "SUCCESSFUL"
    assert build["snapshotBuild"]["memorySnapshotSizeInBytes"] == 609_087_488
    deleted = client.delete_microvm_image(imageIdentifier=_arn("life"))
    assert (deleted["imageIdentifier"], deleted["state"]) == (_arn("life"), "DELETING")
    gone = _until(
        lambda: _is_gone(client, "life"),
        bool,
    )
    assert gone


def _is_gone(client: Any, name: str) -> bool:
    try:
        client.get_microvm_image(imageIdentifier=_arn(name))
    except client.exceptions.ResourceNotFoundException:
        return True
    return False


def test_failed_build_says_why_on_the_build(client: Any) -> None:
    arn = _create(client, codeArtifact={"uri": FAIL})
    image = client.get_microvm_image(imageIdentifier=arn)
    assert (image["state"], image["latestFailedImageVersion"]) == ("CREATE_FAILED", "1.0")
    assert "latestActiveImageVersion" not in image
    build = client.list_microvm_image_builds(imageIdentifier=arn, imageVersion="1.0")["items"][0]
    assert (build["buildState"], build["stateReason"]) == (
        "FAILED",
        "The container image build failed.",
    )


def test_second_version_and_status(client: Any) -> None:
    arn = _create(client)
    updated = client.update_microvm_image(
        imageIdentifier=arn,
        baseImageArn=_BASE,
        buildRoleArn=_ROLE,
        codeArtifact={"uri": "s3://bucket/app2.zip"},
    )
    assert (updated["state"], updated["imageVersion"]) == ("UPDATING", "2.0")
    _until(
        lambda: client.get_microvm_image(imageIdentifier=arn)["state"],
        lambda state: state == "UPDATED",
    )
    versions = client.list_microvm_image_versions(imageIdentifier=arn)["items"]
    assert [version["imageVersion"] for version in versions] == ["2.0", "1.0"]
    changed = client.update_microvm_image_version(
        imageIdentifier=arn, imageVersion="2.0", status="INACTIVE"
    )
    assert changed["status"] == "INACTIVE"
    assert client.get_microvm_image(imageIdentifier=arn)["latestActiveImageVersion"] == "1.0"
    status, code, text = _error(lambda: client.run_microvm(imageIdentifier=arn, imageVersion="2.0"))
    assert (status, code) == (404, "ResourceNotFoundException")
    assert text == f"No active version found for MicroVM image {arn} and version 2.0"
    deleted = client.delete_microvm_image_version(imageIdentifier=arn, imageVersion="2.0")
    assert (deleted["imageVersion"], deleted["state"]) == ("2.0", "DELETING")


def test_microvm_life(client: Any) -> None:
    arn = _create(client)
    started = client.run_microvm(
        imageIdentifier=arn,
        idlePolicy={
            "maxIdleDurationSeconds": 60,
            "suspendedDurationSeconds": 600,
            "autoResumeEnabled": True,
        },
    )
    microvm = started["microvmId"]
    assert microvm.startswith("microvm-")
    assert started["endpoint"].endswith(f".lambda-microvm.{REGION}.microvm.localhost")
    assert started["endpoint"].split(".")[0] not in microvm
    assert started["maximumDurationInSeconds"] == 28800
    managed = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
    assert started["ingressNetworkConnectors"] == [f"{managed}HTTP_INGRESS"]
    assert started["egressNetworkConnectors"] == [f"{managed}INTERNET_EGRESS"]
    running = _settled(client, microvm, "RUNNING")
    assert running["idlePolicy"]["autoResumeEnabled"] is True
    assert "stateReason" not in running
    for call, state in (("suspend", "SUSPENDED"), ("resume", "RUNNING")):
        answer = getattr(client, f"{call}_microvm")(microvmIdentifier=microvm)
        assert answer.keys() == {"ResponseMetadata"}
        _settled(client, microvm, state)
    client.terminate_microvm(microvmIdentifier=microvm)
    ended = _settled(client, microvm, "TERMINATED")
    assert ended["stateReason"] == "Success."
    assert ended["terminatedAt"] >= ended["startedAt"]
    client.terminate_microvm(microvmIdentifier=microvm)
    assert _error(lambda: client.suspend_microvm(microvmIdentifier=microvm)) == (
        400,
        "ValidationException",
        f"The MicroVM {microvm} has been terminated and its state cannot be changed.",
    )
    listed = client.list_microvms(imageIdentifier=arn)["items"]
    assert [(item["microvmId"], item["state"]) for item in listed] == [(microvm, "TERMINATED")]


def test_client_token_replays(client: Any) -> None:
    arn = _create(client)
    first = client.run_microvm(imageIdentifier=arn, clientToken="once")
    again = client.run_microvm(imageIdentifier=arn, clientToken="once")
    assert first["microvmId"] == again["microvmId"]
    status, code, _ = _error(
        lambda: client.run_microvm(
            imageIdentifier=arn, clientToken="once", maximumDurationInSeconds=60
        )
    )
    assert (status, code) == (409, "ConflictException")


def test_pages(client: Any) -> None:
    arn = _create(client)
    made = [_run(client, arn) for _ in range(5)]
    pages = client.get_paginator("list_microvms").paginate(
        imageIdentifier=arn, PaginationConfig={"PageSize": 2}
    )
    found = [[item["microvmId"] for item in page["items"]] for page in pages]
    assert [len(page) for page in found] == [2, 2, 1]
    assert [microvm for page in found for microvm in page] == made[::-1]


def test_tokens(api: LiveApi, client: Any) -> None:
    shell = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:SHELL_INGRESS"
    arn = _create(client)
    microvm = _run(client, arn, ingressNetworkConnectors=[shell])
    endpoint = client.get_microvm(microvmIdentifier=microvm)["endpoint"].split(".")[0]
    for ports, spec in (
        ([{"port": 80}, {"range": {"startPort": 1, "endPort": 9}}], "80,1-9"),
        ([{"port": 80}, {"allPorts": {}}], "*"),
    ):
        token = client.create_microvm_auth_token(
            microvmIdentifier=microvm, expirationInMinutes=60, allowedPorts=ports
        )["authToken"]
        claims = api.issuer.verify(token["X-aws-proxy-auth"])
        assert (claims.endpoint_id, claims.ports, claims.scope) == (endpoint, spec, "http")
        assert 3540 < claims.expires_at - time.time() <= 3600
    shells = client.create_microvm_shell_auth_token(
        microvmIdentifier=microvm, expirationInMinutes=5
    )["authToken"]
    assert api.issuer.verify(shells["X-aws-proxy-auth"]).scope == "shell"
    backwards = {"range": {"startPort": 9, "endPort": 1}}
    assert _error(
        lambda: client.create_microvm_auth_token(
            microvmIdentifier=microvm, expirationInMinutes=5, allowedPorts=[backwards]
        )
    ) == (400, "ValidationException", "Invalid port range: 9 is greater than 1.")
    other = _run(client, arn)
    assert _error(
        lambda: client.create_microvm_shell_auth_token(
            microvmIdentifier=other, expirationInMinutes=5
        )
    ) == (
        400,
        "ValidationException",
        "Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM.",
    )
    assert _error(
        lambda: client.create_microvm_auth_token(
            microvmIdentifier=microvm, expirationInMinutes=61, allowedPorts=[{"allPorts": {}}]
        )
    ) == (400, "ValidationException", "ExpirationMinutes 61 exceeded max allowed of 60.")


def test_tags(client: Any) -> None:
    arn = _create(client, tags={"a": "1"})
    assert (
        client.tag_resource(Resource=arn, Tags={"b": "2"})["ResponseMetadata"]["HTTPStatusCode"]
        == 204
    )
    assert client.list_tags(Resource=arn)["Tags"] == {"a": "1", "b": "2"}
    client.untag_resource(Resource=arn, TagKeys=["a", "absent"])
    assert client.list_tags(Resource=arn)["Tags"] == {"b": "2"}
    status, code, text = _error(lambda: client.list_tags(Resource="microvm-1"))
    assert (status, code) == (400, "ValidationException")
    assert text.startswith("1 validation error detected: Value 'microvm-1' at 'resource' failed")


def test_managed_images(client: Any) -> None:
    assert [item["imageArn"] for item in client.list_managed_microvm_images()["items"]] == [_BASE]
    pages = client.get_paginator("list_managed_microvm_image_versions").paginate(
        imageIdentifier=_BASE, PaginationConfig={"PageSize": 1}
    )
    found = [item for page in pages for item in page["items"]]
    assert [(item["imageVersion"], item["status"]) for item in found] == [
        ("1", "AVAILABLE"),
        ("0", "AVAILABLE"),
    ]


def test_recorded_refusals(client: Any) -> None:
    ghost = _arn("ghost")
    assert _error(lambda: client.run_microvm(imageIdentifier="ghost"))[:2] == (
        400,
        "ValidationException",
    )
    assert _error(lambda: client.get_microvm_image(imageIdentifier="ghost")) == (
        400,
        "ValidationException",
        "Invalid ARN format: ghost",
    )
    assert _error(
        lambda: client.get_microvm_image(imageIdentifier=ghost.replace("image:", "image/"))
    )[:2] == (403, "AccessDeniedException")
    assert _error(lambda: client.get_microvm_image(imageIdentifier=ghost)) == (
        404,
        "ResourceNotFoundException",
        f"MicroVMImage not found for MicroVMImageID: {ghost}",
    )
    assert _error(lambda: client.get_microvm(microvmIdentifier="microvm-1")) == (
        404,
        "ResourceNotFoundException",
        "MicroVM not found: microvm-1",
    )
    assert _error(lambda: client.create_microvm_image(name="x")) == (
        400,
        "ValidationException",
        f"3 validation errors detected: Value null at 'baseImageArn' {_NULL}; "
        f"Value null at 'buildRoleArn' {_NULL}; Value null at 'codeArtifact' {_NULL}",
    )
    for payload in ("x" * 4097, "ü" * 2049):
        run = partial(client.run_microvm, imageIdentifier="x", runHookPayload=payload)
        assert _error(run) == (
            400,
            "ValidationException",
            "1 validation error detected: Value at 'runHookPayload' failed to satisfy constraint: "
            "Member must have length less than or equal to 4096",
        )


def test_core(api: LiveApi) -> None:
    core = api.client("lambda-core")
    assert _error(lambda: core.get_network_connector(Identifier="net")) == (
        404,
        "ResourceNotFoundException",
        f"Network connector not found for: arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:net",
    )
    assert _error(lambda: core.list_runtimes())[:2] == (501, "ServiceException")
    core.close()


def test_wrong_keys_and_region(api: LiveApi) -> None:
    for options, code in (
        ({"aws_secret_access_key": "wrong"}, "InvalidSignatureException"),
        ({"aws_access_key_id": "AKIANOBODY"}, "UnrecognizedClientException"),
        ({"region_name": "eu-west-1"}, "InvalidSignatureException"),
    ):
        client = api.client("lambda-microvms", **options)
        assert _error(client.list_microvms)[:2] == (403, code)
        client.close()
