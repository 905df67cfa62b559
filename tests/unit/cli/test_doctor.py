"""The report as a whole: every check is in it, and its exit code tells."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from microvmd.cli import checks, security_checks
from microvmd.cli.checks import Check
from microvmd.cli.main import app


@pytest.mark.parametrize(
    ("options", "checks"), [([], checks.all_checks()), (["--security"], security_checks.CHECKS)]
)
def test_report_and_exit_code_agree(
    options: list[str],
    checks: Mapping[str, Check],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MICROVMD_CACHE", str(tmp_path))
    monkeypatch.setenv("MICROVMD_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("MICROVMD_VMM_ACCELERATOR", "tcg")
    done = CliRunner().invoke(app, ["doctor", "--json", *options])
    report = json.loads(done.output)
    assert list(report) == list(checks)
    failed = [name for name, one in report.items() if one["state"] == "failed"]
    assert done.exit_code == (1 if failed else 0)
    people = CliRunner().invoke(app, ["doctor", *options])
    for name in report:
        assert name in people.output
