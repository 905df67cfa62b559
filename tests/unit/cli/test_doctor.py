"""The report as a whole: every check is in it, and its exit code tells."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from microvmd.cli import doctor
from microvmd.cli.main import app


def test_report_and_exit_code_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MICROVMD_CACHE", str(tmp_path))
    monkeypatch.setenv("MICROVMD_VMM_ACCELERATOR", "tcg")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    report = json.loads(done.output)
    assert list(report) == list(doctor.CHECKS)
    failed = [name for name, one in report.items() if one["state"] == "failed"]
    assert done.exit_code == (1 if failed else 0)
    people = CliRunner().invoke(app, ["doctor"])
    for name in report:
        assert name in people.output
