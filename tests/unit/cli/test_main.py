"""The command as a whole: every verb of the README exists and explains itself."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from microvmd import __version__
from microvmd.cli.main import app, reference_page
from microvmd.settings.names import setting_names

WITHOUT_JSON = {
    "serve": "runs the service",
    "node": "runs the node",
    "shell": "is a terminal",
    "demo": "shows steps to people",
    "curl": "prints what curl prints",
    "users delete": "prints nothing",
    "policies attach": "prints nothing",
    "policies detach": "prints nothing",
    "keys revoke": "prints nothing",
}
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


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield " ".join(path), command
    for name, one in inner.items():
        yield from _commands(one, (*path, name))


COMMANDS = {path: one for path, one in _commands(get_command(app)) if path}


@pytest.mark.parametrize("path", COMMANDS)
def test_what_prints_data_prints_json(path: str) -> None:
    options = {option for one in COMMANDS[path].params for option in one.opts}
    assert ("--json" in options) != (path in WITHOUT_JSON)


@pytest.mark.parametrize("path", COMMANDS)
def test_help_has_an_example_that_is_right(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example is read as the command would read it; nothing is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python.tar").touch()
    command = COMMANDS[path]
    if getattr(command, "commands", None):
        return  # its subcommands have theirs
    found = re.search(rf"Example: microvmd {path}(.*)", command.help or "")
    assert found is not None
    with command.make_context(path, shlex.split(found[1])) as context:
        assert context.command is command
    assert not [one.name for one in command.params if not getattr(one, "help", "x")]


def test_completion_can_be_installed() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "--install-completion" in shown


def test_a_client_waits_for_no_part_of_the_service() -> None:
    """Each TAB is a call of the command, and the parts take longer to import than to answer."""
    program = "import microvmd.cli.main, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    parts = ("api", "build", "console", "edge", "vmm.qemu", "vmm.firecracker", "node.bring_up")
    slow = {f"microvmd.{part}" for part in parts} | {"cryptography", "dns", "starlette"}
    assert not slow & set(done.stdout.decode().split())
