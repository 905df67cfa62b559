"""Usage as a table and as CSV: every row is whole, and a tag is no formula."""

import csv
import io

import pytest

from microvmd.cli.usage import _cells, _print_csv
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


def test_csv(capsys: pytest.CaptureFixture[str]) -> None:
    _print_csv([LINE, {**LINE, "key": "=1+1"}])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["key"] for row in rows] == [LINE["key"], "'=1+1"]
    assert rows[0]["vcpu_s"] == "10"
