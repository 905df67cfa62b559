"""What commands print."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

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
