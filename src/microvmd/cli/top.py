"""``microvmd top``: what live MicroVMs use, as it changes."""

import sys
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.live import Live

from microvmd.cli.client import Service
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, console, print_json, table_of
from microvmd.settings import settings

COLUMNS = ("MICROVM", "STATE", "CPU %", "MEMORY", "REQ/S", "IDLE IN", "AGE", "IMAGE")
ID_LENGTH = len("microvm-") + 8
Row = Mapping[str, Any]


class Sort(StrEnum):
    """What the table is sorted by; the most comes first, of idle what is due first."""

    CPU = "cpu"
    MEMORY = "memory"
    REQUESTS = "requests"
    IDLE = "idle"
    AGE = "age"


_KEYS: Mapping[Sort, Callable[[Row], float]] = {
    Sort.CPU: lambda row: -(row["cpu"] or 0),
    Sort.MEMORY: lambda row: -(row["memory"] or 0),
    Sort.REQUESTS: lambda row: -(row["rate"] or 0),
    Sort.IDLE: lambda row: row["idle_at"] or float("inf"),
    Sort.AGE: lambda row: row["started_at"],
}


def top(
    sort: Annotated[Sort, typer.Option("--sort", "-s", help="What comes first.")] = Sort.CPU,
    most: Annotated[int, typer.Option("--lines", "-n", help="Rows at most.", min=1)] = 40,
    seconds: Annotated[float, typer.Option(help="Between two looks.", min=0.5)] = 2,
    once: Annotated[bool, typer.Option("--once", help="Print it once and leave.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what MicroVMs use, as it changes: processor, memory, requests, time until they idle.

    Where the output is no terminal it is printed once. Ctrl-C leaves.

    Example: microvmd top --sort memory
    """
    with reported():
        looking = Looking(Service(settings.load()))
        rows = looking.look()
        if as_json:
            print_json(in_order(rows, sort)[:most])
        elif once or not sys.stdout.isatty():
            console.print(table_of(COLUMNS, cells_of(rows, sort, most, time.time())))
        else:
            _watch(looking, rows, sort, most, seconds)


class Looking:
    """Rows of the account's live MicroVMs; asks only for what has changed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._version = ""
        self._rows: dict[str, Row] = {}

    def look(self) -> list[Row]:
        """As they are now."""
        query = {"after": self._version} if self._version else {}
        self.take(self._service.ask("GET", "/live", query=query))
        return list(self._rows.values())

    def take(self, found: Mapping[str, Any]) -> None:
        """An answer of ``GET /microvmd/v1/live``."""
        self._version = found["version"]
        self._rows |= {row["microvm"]: row for row in found["rows"]}
        if found["microvms"] is not None:
            rows = self._rows
            self._rows = {name: rows[name] for name in found["microvms"] if name in rows}


def in_order(rows: list[Row], sort: Sort) -> list[Row]:
    return sorted(rows, key=_KEYS[sort])


def cells_of(rows: list[Row], sort: Sort, most: int, now: float) -> list[tuple[str, ...]]:
    """The table's cells."""
    return [
        (
            row["microvm"][:ID_LENGTH],
            row["state"],
            _number(row["cpu"]),
            "-" if row["memory"] is None else f"{row['memory']} of {row['baseline']} MiB",
            "-" if row["rate"] is None else f"{row['rate']:.1f}",
            "-" if row["idle_at"] is None else countdown(row["idle_at"] - now),
            countdown(now - row["started_at"]),
            f"{row['image']} {row['version']}",
        )
        for row in in_order(rows, sort)[:most]
    ]


def countdown(seconds: float) -> str:
    """``12 s``, ``4:05``, ``3:20:00``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes = f"{rest // 60:02}:{rest % 60:02}"
    return f"{hours}:{minutes}" if hours else minutes.lstrip("0")


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _watch(looking: Looking, rows: list[Row], sort: Sort, most: int, seconds: float) -> None:
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                fits = min(most, max(1, console.height - 2))
                table = table_of(COLUMNS, cells_of(rows, sort, fits, time.time()))
                live.update(table, refresh=True)
                time.sleep(seconds)
                rows = looking.look()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
