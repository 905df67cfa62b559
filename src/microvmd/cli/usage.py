"""``microvmd usage``: what was used, in the dimensions that AWS bills, and what it would cost."""

import csv
import sys
import time
from typing import Annotated, Any

import typer

from microvmd.cli.client import Service
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, Narrow, print_json, print_table
from microvmd.settings import settings

DAY_S = 86400
GB = 1 << 30
HOUR_S = 3600
COLUMNS = ("MICROVMS", "RUNNING", "SUSPENDED", "VCPU-S", "GB-S", "READ GB", "WRITTEN GB", "GB-H")
NARROW = Narrow(
    ("READ GB", "WRITTEN GB", "MICROVMS", "GB-H", "VCPU-S", "GB-S", "SUSPENDED", "RUNNING")
)
Line = dict[str, Any]


def usage(
    days: Annotated[float, typer.Option(help="Of the last days, by whole hours.", min=0)] = 30,
    by: Annotated[str, typer.Option(help="microvm, image, or tag:KEY (of images).")] = "image",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with all digits.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """What MicroVMs used, the dearest first, and what it costs at the prices that are set.

    Example: microvmd usage --by tag:team --csv
    """
    with reported():
        service = Service(settings.load())
        query = {"since": repr(time.time() - days * DAY_S), "by": by}
        found = service.ask("GET", "/usage", query=query)
        if as_json:
            print_json(found)
        elif as_csv:
            _print_csv(found["lines"])
        else:
            rows = [_cells(line, found["by"]) for line in found["lines"]]
            what = found["by"].upper()
            print_table((what, *COLUMNS, f"COST {found['currency']}"), rows, NARROW)


def _print_csv(lines: list[Line]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, line in enumerate(lines):
        if number == 0:
            writer.writerow(line)
        writer.writerow(_safe(value) for value in line.values())


def _safe(value: object) -> object:
    """A tag that a spreadsheet would take for a formula stays text."""
    return (
        f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
    )


def _cells(line: Line, by: str) -> tuple[str, ...]:
    key = line["key"].rpartition(":")[2] if by == "image" else line["key"]
    return (
        key,
        str(line["microvms"]),
        f"{line['running_s'] / HOUR_S:.2f} h",
        f"{line['suspended_s'] / HOUR_S:.2f} h",
        f"{line['vcpu_s']:.0f}",
        f"{line['memory_gb_s']:.0f}",
        f"{line['read_bytes'] / GB:.2f}",
        f"{line['written_bytes'] / GB:.2f}",
        f"{line['stored_gb_s'] / HOUR_S:.2f}",
        f"{line['cost']:.4f}",
    )
