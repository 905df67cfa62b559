"""Usage as a table and as CSV: every row is whole, and a tag is no formula."""

import csv
import io

import pytest
from rich.console import Console

from microvmd.cli import output
from microvmd.cli.usage import COLUMNS, NARROW, _cells, _print_csv
from microvmd.control.metering import Line
from microvmd.model.metering import Usage
from microvmd.service.routes.usage import _shown

LINE = _shown(
    Line("arn:aws:lambda:r:1:microvm-image:app", 2, Usage(3600, 7200, 10, 20, 1 << 30, 0, 36), 1.5)
)


def test_cells() -> None:
    assert _cells(LINE, "image") == (
        *("app", "2", "1.00 h", "2.00 h", "10", "20", "1.00", "0.00", "0.01", "1.5000"),
    )
    assert _cells(LINE, "tag:team")[0] == LINE["key"]


def test_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A MicroVM's id stays whole beside what it cost."""
    terminal = Console(width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "console", terminal)
    key = "microvm-12345678-1234-1234-1234-123456789012"
    columns = ("MICROVM", *COLUMNS, "COST EUR")
    output.print_table(columns, [_cells({**LINE, "key": key}, "microvm")], NARROW)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["MICROVM", "RUNNING", "SUSPENDED", "GB-S", "COST", "EUR"]
    assert row.split() == [key, "1.00", "h", "2.00", "h", "20", "1.5000"]
    assert set(NARROW.without) <= set(columns)


def test_csv(capsys: pytest.CaptureFixture[str]) -> None:
    _print_csv([LINE, {**LINE, "key": "=1+1"}])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["key"] for row in rows] == [LINE["key"], "'=1+1"]
    assert rows[0]["vcpu_s"] == "10"
