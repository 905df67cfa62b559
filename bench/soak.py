"""Thousands of lives of MicroVMs while the service's parts are killed and its disk is full.

Everything runs beside the machine's own service: a service of its own with its own ports, names and
a small disk as its root. Prints a line a batch and a table of what was counted, writes JSON below
``build/bench``, and ends with 1 if anything was lost, doubled or left.
"""

import argparse
import secrets
import signal
import sys
import time
from dataclasses import asdict

from rich.table import Table

from bench.results import write
from microvmd.cli.output import console
from tests.soakfaults import FAULTS
from tests.soaklab import Holdings, Soak, soaking

BATCH = 40
"""Cycles between two rests."""


def run(soak: Soak, cycles: int, minutes: float) -> None:
    """Batches until all cycles are done or time is up; tells after each how it stands."""
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: soak.stopping.set())
    while (done := soak.counters["cycles"]) < cycles:
        if minutes and time.monotonic() - began > minutes * 60:
            console.print(f"time is up after {done} of {cycles} cycles", style="yellow")
            return
        known = len(soak.findings)
        soak.batch(min(BATCH, cycles - done))
        if soak.stopping.is_set():
            return
        struck = sum(count for name, count in soak.counters.items() if name.startswith("fault:"))
        held = soak.holdings[-1]
        console.print(
            f"{soak.counters['cycles']:>5}/{cycles} cycles, {struck} faults, "
            f"{len(soak.findings)} findings, {(time.monotonic() - began) / 60:.1f} min; "
            f"{held.descriptors} descriptors, {held.threads} threads, "
            f"{held.memory_mib} MiB and {held.edge_memory_mib} MiB of HAProxy",
            highlight=False,
        )
        for finding in soak.findings[known:]:
            console.print(finding, markup=False, highlight=False, style="red")


def report(soak: Soak) -> None:
    """Print the table and write the JSON."""
    table = Table(box=None, header_style="bold")
    table.add_column("")
    table.add_column("count", justify="right")
    for name, count in sorted(soak.counters.items()):
        table.add_row(name, f"{count:,}")
    console.print(table)
    if soak.holdings:
        first, last = soak.holdings[0], soak.holdings[-1]
        for name in Holdings.__dataclass_fields__:
            console.print(f"{name}: {getattr(first, name)} -> {getattr(last, name)}")
    found = len(soak.findings)
    console.print(f"seed {soak.seed}: {found} findings", style="red" if found else "green")
    write(
        "soak",
        {
            "seed": soak.seed,
            "counters": dict(soak.counters),
            "findings": soak.findings,
            "holdings": [asdict(held) for held in soak.holdings],
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Live MicroVMs while everything is being killed.")
    parser.add_argument("--cycles", type=int, default=2000, help="run, suspend, resume, terminate")
    parser.add_argument("--seed", type=int, default=None, help="a random one, if not given")
    parser.add_argument("--workers", type=int, default=3, help="MicroVMs at a time")
    parser.add_argument("--pause", type=float, default=8.0, help="mean of seconds between faults")
    parser.add_argument("--fault", choices=[*FAULTS], action="append", help="these only")
    parser.add_argument("--minutes", type=float, default=0, help="stop after that; 0 is never")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    faults = options.fault or [*FAULTS]
    with soaking(seed, workers=options.workers, pause=options.pause, faults=faults) as soak:
        try:
            run(soak, options.cycles, options.minutes)
        finally:
            report(soak)
    sys.exit(1 if soak.findings else 0)


if __name__ == "__main__":
    main()
