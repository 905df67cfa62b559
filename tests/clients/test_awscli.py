"""The walk of the README by the unmodified AWS CLI: environment variables are all it is told."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.clients.live import ACCOUNT, KEY, REGION, LiveApi

pytestmark = pytest.mark.client

_ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:cli"


def _aws(api: LiveApi, directory: Path, *words: str, fails: bool = False) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "AWS_ENDPOINT_URL": api.url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY.access_key,
        "AWS_SECRET_ACCESS_KEY": KEY.secret_key,
        "AWS_MAX_ATTEMPTS": "1",
    }
    program = Path(sys.executable).parent / "aws"
    done = subprocess.run(
        [str(program), *words], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode != 0) is fails, done.stderr
    return done.stderr if fails else done.stdout


def _json(api: LiveApi, directory: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_aws(api, directory, *words) or "{}")
    return found


def _wait(api: LiveApi, directory: Path, state: str, *words: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (found := _json(api, directory, *words))["state"] != state:
        assert time.monotonic() < deadline, found
    return found


def test_walk(api: LiveApi, tmp_path: Path) -> None:
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Dockerfile", "FROM scratch\n")
    _aws(api, tmp_path, "s3", "mb", "s3://cli-sources")
    _aws(api, tmp_path, "s3", "cp", str(archive), "s3://cli-sources/app.zip")
    assert "app.zip" in _aws(api, tmp_path, "s3", "ls", "s3://cli-sources/")
    vms = "lambda-microvms"
    created = _json(
        api,
        tmp_path,
        vms,
        "create-microvm-image",
        "--name=cli",
        f"--base-image-arn=arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        f"--build-role-arn=arn:aws:iam::{ACCOUNT}:role/build",
        "--code-artifact=uri=s3://cli-sources/app.zip",
        "--tags=team=a",
    )
    assert created["imageArn"] == _ARN
    _wait(api, tmp_path, "CREATED", vms, "get-microvm-image", f"--image-identifier={_ARN}")
    microvm = _json(api, tmp_path, vms, "run-microvm", f"--image-identifier={_ARN}")["microvmId"]
    which = f"--microvm-identifier={microvm}"
    _wait(api, tmp_path, "RUNNING", vms, "get-microvm", which)
    token = _json(
        api,
        tmp_path,
        vms,
        "create-microvm-auth-token",
        which,
        "--expiration-in-minutes=30",
        '--allowed-ports=[{"allPorts":{}}]',
    )
    assert token["authToken"]["X-aws-proxy-auth"]
    for verb, state in (("suspend", "SUSPENDED"), ("resume", "RUNNING")):
        assert _aws(api, tmp_path, vms, f"{verb}-microvm", which) == ""
        _wait(api, tmp_path, state, vms, "get-microvm", which)
    assert _json(api, tmp_path, vms, "list-tags", f"--resource={_ARN}")["Tags"] == {"team": "a"}
    _aws(api, tmp_path, vms, "terminate-microvm", which)
    ended = _wait(api, tmp_path, "TERMINATED", vms, "get-microvm", which)
    assert ended["stateReason"] == "Success."


def test_refusals_are_readable(api: LiveApi, tmp_path: Path) -> None:
    text = _aws(
        api,
        tmp_path,
        "lambda-microvms",
        "get-microvm",
        "--microvm-identifier=microvm-1",
        fails=True,
    )
    assert "(ResourceNotFoundException) when calling the GetMicrovm operation" in text
    assert "MicroVM not found: microvm-1" in text
