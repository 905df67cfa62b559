"""Raw bodies against the recorded answers: members, explicit nulls, spelling, headers.

A name in ``<...>`` stands for a value that differs each time; everything else is literal.
"""

import re
import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.clients.live import ACCOUNT, FAIL, REGION, LiveApi
from tests.clients.raw import ask as _ask

pytestmark = pytest.mark.client

_IMAGES = "/2025-09-09/microvm-images"
_RUNS = "/2025-09-09/microvms"
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FORMS = {
    "<uuid>": _UUID,
    "<microvm>": f"microvm-{_UUID}",
    "<endpoint>": rf"{_UUID}\.lambda-microvm\.{REGION}\.microvm\.localhost",
    "<bucket>": r"[A-Z]+#\d{8}",
    "<text>": ".+",
}
_BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
_ROLE = f"arn:aws:iam::{ACCOUNT}:role/build"
_MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector"
_DETAIL = {
    "additionalOsCapabilities": None,
    "baseImageArn": _BASE,
    "baseImageVersion": "1.0",
    "buildRoleArn": _ROLE,
    "codeArtifact": {"uri": "s3://bucket/app.zip"},
    "cpuConfigurations": None,
    "createdAt": "<time>",
    "description": None,
    "egressNetworkConnectors": [f"{_MANAGED}:INTERNET_EGRESS"],
    "environmentVariables": None,
    "hooks": None,
    "kmsKeyIdentifier": None,
    "logging": None,
    "resources": [{"minimumMemoryInMiB": 2048}],
    "updatedAt": "<time>",
}
_SUMMARY = {
    "createdAt": "<time>",
    "id": "<uuid>",
    "latestActiveImageVersion": None,
    "latestFailedImageVersion": None,
}


def _arn(name: str) -> str:
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:{name}"


def _alike(want: Any, have: Any) -> bool:
    if want == "<time>":
        return isinstance(have, int | float) and abs(have - time.time()) < 600
    if isinstance(want, str) and want in _FORMS:
        return isinstance(have, str) and re.fullmatch(_FORMS[want], have) is not None
    if isinstance(want, dict) and isinstance(have, dict):
        return want.keys() == have.keys() and all(_alike(want[n], have[n]) for n in want)
    if isinstance(want, list) and isinstance(have, list):
        return len(want) == len(have) and all(map(_alike, want, have))
    return bool(want == have)


def _expect(answer: tuple[int, dict[str, str], Any], status: int, body: Any) -> Any:
    found, headers, document = answer
    assert found == status, document
    assert _alike(body, document), document
    assert re.fullmatch(_UUID, headers["x-amzn-requestid"])
    if status != 204:
        assert headers["content-type"] == "application/json"
    return document


def _create(api: LiveApi, name: str, artifact: str = "s3://bucket/app.zip") -> Any:
    request = {
        "name": name,
        "baseImageArn": _BASE,
        "buildRoleArn": _ROLE,
        "codeArtifact": {"uri": artifact},
    }
    return _ask(api, "POST", _IMAGES, request)


def _built(api: LiveApi, name: str) -> None:
    deadline = time.monotonic() + 30
    while _ask(api, "GET", f"{_IMAGES}/{_arn(name)}")[2]["state"] in ("CREATING", "UPDATING"):
        assert time.monotonic() < deadline


def test_create_image(api: LiveApi) -> None:
    body = (
        _DETAIL
        | _SUMMARY
        | {
            "buildPhaseOverrides": None,
            "imageArn": _arn("golden-create"),
            "imageVersion": "1.0",
            "name": "golden-create",
            "roleConfiguration": None,
            "state": "CREATING",
            "tags": None,
        }
    )
    _expect(_create(api, "golden-create"), 201, body)


def test_update_image_has_no_tags(api: LiveApi) -> None:
    _create(api, "golden-update")
    _built(api, "golden-update")
    request = {
        "baseImageArn": _BASE,
        "buildRoleArn": _ROLE,
        "codeArtifact": {"uri": "s3://bucket/app.zip"},
    }
    body = (
        _DETAIL
        | _SUMMARY
        | {
            "buildPhaseOverrides": None,
            "imageArn": _arn("golden-update"),
            "imageVersion": "2.0",
            "latestActiveImageVersion": "1.0",
            "name": "golden-update",
            "roleConfiguration": None,
            "state": "UPDATING",
        }
    )
    _expect(_ask(api, "PUT", f"{_IMAGES}/{_arn('golden-update')}", request), 200, body)


def test_get_and_list_image(api: LiveApi) -> None:
    _create(api, "golden-get")
    _built(api, "golden-get")
    item = _SUMMARY | {
        "imageArn": _arn("golden-get"),
        "latestActiveImageVersion": "1.0",
        "name": "golden-get",
        "state": "CREATED",
    }
    detail = item | {"tags": {}, "updatedAt": "<time>"}
    _expect(_ask(api, "GET", f"{_IMAGES}/{_arn('golden-get')}"), 200, detail)
    _, _, listed = _ask(api, "GET", f"{_IMAGES}?nameFilter=golden-get")
    assert _alike({"items": [item], "nextToken": None}, listed), listed


def test_version_and_builds(api: LiveApi) -> None:
    _create(api, "golden-version")
    _built(api, "golden-version")
    path = f"{_IMAGES}/{_arn('golden-version')}/versions"
    version = _DETAIL | {
        "imageArn": _arn("golden-version"),
        "imageVersion": "1.0",
        "state": "SUCCESSFUL",
        "stateReason": None,
        "status": "ACTIVE",
        "tags": None,
        "versionStateTimeBucket": "<bucket>",
    }
    _expect(_ask(api, "GET", f"{path}/1.0"), 200, version)
    _expect(_ask(api, "GET", path), 200, {"items": [version], "nextToken": None})
    build = {
        "architecture": "<text>",
        "buildId": "<uuid>",
        "buildState": "SUCCESSFUL",
        "chipset": "<text>",
        "chipsetGeneration": "<text>",
        "createdAt": "<time>",
        "imageArn": _arn("golden-version"),
        "imageVersion": "1.0",
        "stateReason": None,
        "terminationReasonCode": None,
    }
    listed = _ask(api, "GET", f"{path}/1.0/builds")
    found = _expect(listed, 200, {"items": [build], "nextToken": None})["items"][0]
    sizes = {
        "codeInstallSizeInBytes": 186_400_768,
        "diskSnapshotSizeInBytes": 25_600_000,
        "memorySnapshotSizeInBytes": 609_087_488,
    }
    one = _ask(api, "GET", f"{path}/1.0/builds/{found['buildId']}")
    _expect(one, 200, build | {"snapshotBuild": sizes})


def test_microvm(api: LiveApi) -> None:
    _create(api, "golden-run")
    _built(api, "golden-run")
    item = {
        "imageArn": _arn("golden-run"),
        "imageVersion": "1.0",
        "microvmId": "<microvm>",
        "startedAt": "<time>",
        "state": "PENDING",
    }
    detail = item | {
        "egressNetworkConnectors": [f"{_MANAGED}:INTERNET_EGRESS"],
        "endpoint": "<endpoint>",
        "executionRoleArn": None,
        "idlePolicy": None,
        "ingressNetworkConnectors": [f"{_MANAGED}:HTTP_INGRESS"],
        "kmsKeyIdentifier": None,
        "maximumDurationInSeconds": 28800,
        "stateReason": None,
        "terminatedAt": None,
        "terminationReasonCode": None,
    }
    answer = _ask(api, "POST", _RUNS, {"imageIdentifier": _arn("golden-run")})
    microvm = _expect(answer, 200, detail)["microvmId"]
    _expect(_ask(api, "DELETE", f"{_RUNS}/{microvm}"), 200, {})
    listed = _ask(api, "GET", f"{_RUNS}?imageIdentifier={quote(_arn('golden-run'))}")
    _expect(listed, 200, {"items": [item | {"state": "<text>"}], "nextToken": None})


def test_empty_answers(api: LiveApi) -> None:
    _create(api, "golden-empty")
    _built(api, "golden-empty")
    arn = _arn("golden-empty")
    _expect(_ask(api, "POST", f"/2017-03-31/tags/{arn}", {"Tags": {"a": "b"}}), 204, None)
    _expect(_ask(api, "DELETE", f"/2017-03-31/tags/{arn}?tagKeys=a"), 204, None)
    _expect(_ask(api, "GET", f"/2017-03-31/tags/{arn}"), 200, {"Tags": {}})
    body = {"imageIdentifier": arn, "state": "DELETING"}
    _expect(_ask(api, "DELETE", f"{_IMAGES}/{arn}"), 200, body)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "body"),
    [
        (
            "GET",
            f"{_RUNS}/microvm-x",
            404,
            "ResourceNotFoundException",
            {"message": "MicroVM not found: microvm-x", "resourceId": None, "resourceType": None},
        ),
        (
            "GET",
            f"{_IMAGES}/{_arn('ghost')}/versions/1.0",
            404,
            "ResourceNotFoundException",
            {
                "message": f"MicroVMImage not found for MicroVMImage: {_arn('ghost')}, "
                "Version: 1.0",
                "resourceId": None,
                "resourceType": None,
            },
        ),
        (
            "GET",
            f"{_IMAGES}/ghost",
            400,
            "ValidationException",
            {"message": "Invalid ARN format: ghost"},
        ),
        ("GET", f"{_RUNS}?nextToken=a==", 400, "ValidationException", {"message": None}),
        (
            "POST",
            _RUNS,
            400,
            "ValidationException",
            {
                "message": "1 validation error detected: Value null at 'imageIdentifier' failed "
                "to satisfy constraint: Member must not be null"
            },
        ),
        (
            "GET",
            "/2026-04-04/network-connectors/net",
            404,
            "ResourceNotFoundException",
            {
                "Message": "Network connector not found for: "
                f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:net",
            },
        ),
    ],
)
def test_refusals(
    api: LiveApi, method: str, path: str, status: int, code: str, body: dict[str, Any]
) -> None:
    answer = _ask(api, method, path)
    _expect(answer, status, body)
    assert answer[1]["x-amzn-errortype"] == code


def test_second_create_of_a_name(api: LiveApi) -> None:
    _create(api, "golden-twice")
    text = "A MicroVM image with the name 'golden-twice' already exists in this account"
    _expect(_create(api, "golden-twice"), 400, {"message": text})


def test_failed_build(api: LiveApi) -> None:
    _create(api, "golden-failed", FAIL)
    _built(api, "golden-failed")
    path = f"{_IMAGES}/{_arn('golden-failed')}/versions/1.0/builds"
    build = _ask(api, "GET", path)[2]["items"][0]
    assert build["stateReason"] == "The container image build failed."
    assert _ask(api, "GET", f"{path}/{build['buildId']}")[2]["snapshotBuild"] is None
