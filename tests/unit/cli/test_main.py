"""The command as a whole: every verb of the README exists and explains itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from microvmd import __version__
from microvmd.cli.main import app, reference_page
from microvmd.settings.names import setting_names

VERBS = [
    ["serve"],
    ["doctor"],
    ["demo"],
    ["settings"],
    ["run"],
    ["ps"],
    ["suspend"],
    ["resume"],
    ["terminate"],
    ["logs"],
    ["curl"],
    ["limits"],
    ["images", "build"],
    ["images", "list"],
    ["images", "delete"],
    ["base", "add"],
    ["base", "alias"],
    ["base", "debootstrap"],
    ["base", "list"],
    ["base", "remove"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_verb_explains_itself(verb: list[str]) -> None:
    done = CliRunner().invoke(app, [*verb, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.output


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"microvmd {__version__}\n"


def test_settings_show_what_is_in_force(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MICROVMD_ROOT", str(tmp_path))
    shown = json.loads(CliRunner().invoke(app, ["settings", "--json"]).output)
    assert shown["root"] == str(tmp_path)


def test_reference_page_has_every_setting() -> None:
    page = reference_page()
    for name in setting_names():
        assert f"| `{name}` |" in page


def test_without_a_service_the_next_step_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    done = CliRunner().invoke(app, ["ps"])
    assert done.exit_code == 1
    assert "microvmd serve" in done.output


def test_a_command_that_only_asks_loads_no_server() -> None:
    """They cost a second each, and most commands are over in less."""
    heavy = ("sqlalchemy", "alembic", "moto", "uvicorn")
    program = f"import sys, microvmd.cli.main; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
