"""Stopping what does not run says so, and is no error."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from microvmd.cli.main import app


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MICROVMD_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("MICROVMD_RUN", str(tmp_path / "run"))
    return tmp_path


def test_what_does_not_run(root: Path) -> None:
    done = CliRunner().invoke(app, ["stop"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "service: did not run",
        "haproxy: did not run",
        "local aws: did not run",
    ]
    shown = json.loads(CliRunner().invoke(app, ["stop", "--json"]).output)
    assert shown == {"service": None, "haproxy": None, "local_aws": None, "terminated": []}
