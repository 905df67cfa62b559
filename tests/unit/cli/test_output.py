"""What commands print."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from microvmd.cli import output

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_age(seconds: int, text: str) -> None:
    assert output.age(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0032, "3.2 ms"), (0.14, "140 ms"), (2.314, "2.31 s"), (95.2, "95 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3_600_000, "3.4 MiB"),
        (1 << 44, "16384 GiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert output.size(count) == text


def test_json_has_iso_times(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"startedAt": NOW, "name": "ü"})
    assert capsys.readouterr().out == (
        '{\n  "startedAt": "2026-01-01T00:00:00+00:00",\n  "name": "ü"\n}\n'
    )


def test_json_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="set"):
        output.print_json({"a": {1}})


def test_unknown_states_keep_their_text() -> None:
    assert output.coloured("[ODD]") == "[ODD]"
    assert output.coloured("RUNNING") == "[green]RUNNING[/]"


MICROVM = "microvm-12345678-1234-1234-1234-123456789012"
TABLE = (
    ("MICROVM", "STATE", "IMAGE", "VERSION", "AGE"),
    [(MICROVM, "RUNNING", "an-image-with-a-long-name", "12.0", "42 min")],
    output.Narrow(("VERSION", "AGE"), cut="IMAGE"),
)


def _lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> Any:
    """A table on a terminal: its lines, and what is said beside it."""
    terminal = Console(width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "console", terminal)
    output.print_table(*TABLE)
    said = capsys.readouterr()
    return [line.split() for line in said.out.splitlines()], said.err


def test_a_table_that_fits_is_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (head, row), beside = _lines(monkeypatch, capsys, 120)
    assert head == list(TABLE[0])
    assert row == [MICROVM, "RUNNING", "an-image-with-a-long-name", "12.0", "42", "min"]
    assert beside == ""


def test_a_table_that_does_not_fit_keeps_ids_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row is a line: what matters least is cut, and then left out and told."""
    (head, row), beside = _lines(monkeypatch, capsys, 80)
    assert head == ["MICROVM", "STATE", "IMAGE", "AGE"]
    assert row == [MICROVM, "RUNNING", "an-image-with-a-…", "42", "min"]
    assert beside.rstrip().endswith("shows also: VERSION")
    (head, row), beside = _lines(monkeypatch, capsys, 68)
    assert (head, row[0]) == (["MICROVM", "STATE", "IMAGE"], MICROVM)
    assert beside.rstrip().endswith("shows also: VERSION, AGE")


def test_a_program_gets_whole_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(output, "console", Console())
    output.print_table(*TABLE)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == list(TABLE[0])
    assert row.split()[:4] == [MICROVM, "RUNNING", "an-image-with-a-long-name", "12.0"]


def _shown(text: str, *, terminal: bool) -> str:
    """What a real terminal, or a pipe, gets of one line."""
    reader, writer = os.openpty() if terminal else os.pipe()
    program = f"from microvmd.cli import output; output.print_line({text!r})"
    with os.fdopen(reader, "rb", buffering=0) as file:
        subprocess.run([sys.executable, "-c", program], stdout=writer, check=True, timeout=60)
        found = file.read(1000)
        os.close(writer)
    return found.decode().replace("\r\n", "\n")


def test_a_terminal_obeys_no_line_of_an_application() -> None:
    line = "\x1b]0;title\x07text"
    assert _shown(line, terminal=True) == "\\x1b]0;title\\x07text\n"
    assert _shown(line, terminal=False) == f"{line}\n"
