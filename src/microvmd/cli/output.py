"""How commands print: tables for people, JSON for programs, colours for states, short times."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from microvmd.node.log_lines import printable

T = TypeVar("T")
GAP = 2
"""Between two columns."""
LEAST = 12
"""Characters that a column is cut to at most."""

console = Console()
stderr = Console(stderr=True)
"""What a person reads beside a result that a script takes: ``ID=$(microvmd run hello)``."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_COLOURS = {
    "RUNNING": "green",
    "SUCCESSFUL": "green",
    "CREATED": "green",
    "UPDATED": "green",
    "ok": "green",
    "SUSPENDED": "blue",
    "PENDING": "yellow",
    "SUSPENDING": "yellow",
    "CREATING": "yellow",
    "UPDATING": "yellow",
    "warning": "yellow",
    "TERMINATED": "dim",
    "CREATE_FAILED": "red",
    "UPDATE_FAILED": "red",
    "FAILED": "red",
    "failed": "red",
}


def coloured(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/]" if colour else state


def print_json(value: object) -> None:
    """As the AWS CLI does: indented, times in ISO form."""
    print_raw(json.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def print_json_line(value: object) -> None:
    """One object a line, for what comes one by one."""
    print_raw(json.dumps(value, default=_plain, ensure_ascii=False))


def print_raw(text: str) -> None:
    """Text as it is: no colours, no wrapping, also into a pipe."""
    typer.echo(text)


def print_line(text: str) -> None:
    """A line of an application: as it is, but a terminal gets nothing that it would obey."""
    print_raw(printable(text) if sys.stdout.isatty() else text)


def print_each(things: Iterable[T], shown: Callable[[T], str], *, as_json: bool) -> None:
    """What comes one by one, until it ends or Ctrl-C is pressed, which is exit code 130."""
    try:
        for one in things:
            if as_json:
                print_json_line(one)
            else:
                print_line(shown(one))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@dataclass(frozen=True, slots=True)
class Narrow:
    """Where a table is too wide: columns left out, one after the other, until it fits, and one that
    is cut to `LEAST` characters before that. With neither, cells are folded."""

    without: tuple[str, ...] = ()
    cut: str | None = None


NOTHING = Narrow()


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], narrow: Narrow = NOTHING
) -> None:
    """Cells are plain text; the one in a column named STATE is coloured. What is no terminal gets
    lines as long as they are."""
    cells = [list(row) for row in rows]
    if console.is_terminal or "COLUMNS" in os.environ:
        where = console
    else:
        where = Console(width=max(1, sum(_widths(columns, cells)) + GAP * len(columns)))
    left_out = _left_out(columns, cells, where.width, narrow)
    kept = [number for number, column in enumerate(columns) if column not in left_out]
    rows = [[row[number] for number in kept] for row in cells]
    where.print(table_of([columns[number] for number in kept], rows, narrow.cut))
    if left_out:
        names = ", ".join(column for column in columns if column in left_out)
        stderr.print(f"[dim]a wider terminal, or --json, shows also: {names}[/]", soft_wrap=True)


def _left_out(
    columns: Sequence[str], rows: Sequence[Sequence[str]], room: int, narrow: Narrow
) -> set[str]:
    widths = dict(zip(columns, _widths(columns, rows), strict=True))
    if narrow.cut is not None:
        widths[narrow.cut] = min(widths[narrow.cut], LEAST)
    left_out: set[str] = set()
    for column in narrow.without:
        if sum(widths.values()) + GAP * (len(widths) - 1) <= room:
            break
        left_out.add(column)
        del widths[column]
    return left_out


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(map(cell_len, (column, *cells))) for column, *cells in zip(columns, *rows, strict=True)
    ]


def table_of(
    columns: Sequence[str], rows: Iterable[Sequence[str]], cut: str | None = None
) -> Table:
    """The same, to be shown again and again, in the room that there is."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        # The first column is what the next command is given: it stays in one piece.
        if column == cut:
            table.add_column(column, overflow="ellipsis")
        else:
            table.add_column(column, overflow="fold", no_wrap=number == 0 or cut is not None)
    for row in rows:
        cells = [
            coloured(cell) if column == "STATE" else escape(cell)
            for column, cell in zip(columns, row, strict=True)
        ]
        table.add_row(*cells)
    return table


def without_metadata(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def age(moment: datetime, now: datetime | None = None) -> str:
    """``42 s``, ``7 min``, ``3 h``, ``2 d``."""
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def duration(seconds: float) -> str:
    """``3.2 ms``, ``140 ms``, ``2.31 s``, ``95 s``."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds:.0f} s"


def size(count: int) -> str:
    """Bytes as ``512 B``, ``3.4 MiB``, ``12 GiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the loop ends at GiB")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")
