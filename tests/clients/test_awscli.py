"""The AWS CLI's own commands for S3, as the README uses them: environment variables are all it is
told, and the one endpoint URL serves S3 too. Operations are in `exercises/`."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.clients.live import KEY, REGION, LiveApi

pytestmark = pytest.mark.client


def _aws(api: LiveApi, directory: Path, *words: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "AWS_ENDPOINT_URL": api.url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY.access_key,
        "AWS_SECRET_ACCESS_KEY": KEY.secret_key,
    }
    program = Path(sys.executable).parent / "aws"
    done = subprocess.run(
        [str(program), *words], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_artifacts(api: LiveApi, tmp_path: Path) -> None:
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Dockerfile", "FROM scratch\n")
    _aws(api, tmp_path, "s3", "mb", "s3://cli-sources")
    _aws(api, tmp_path, "s3", "cp", str(archive), "s3://cli-sources/app.zip")
    assert "app.zip" in _aws(api, tmp_path, "s3", "ls", "s3://cli-sources/")
    copy = tmp_path / "copy.zip"
    _aws(api, tmp_path, "s3", "cp", "s3://cli-sources/app.zip", str(copy))
    assert copy.read_bytes() == archive.read_bytes()
