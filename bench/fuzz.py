"""Many faulty requests to the API: every answer must be a modelled one, and nothing may leak.

Most go to the application in this process, a share over real connections as raw bytes. The same
seed gives the same requests. Prints what was answered and every finding; ends with 1 if there is
one.
"""

import argparse
import asyncio
import secrets
import sys

from rich.table import Table

from microvmd.cli.output import console
from tests.fuzz.campaign import Outcome, run
from tests.fuzz.targets import TARGETS, try_target

MEMORY_LIMIT_MIB = 64.0
SHARE_ON_WIRE = 0.05


def report(outcome: Outcome, findings: list[str]) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("answer")
    table.add_column("count", justify="right")
    for answer, count in outcome.answers.most_common():
        table.add_row(answer, f"{count:,}")
    console.print(table)
    before, after = outcome.held
    console.print(
        f"seed {outcome.seed}: {outcome.requests:,} requests, {outcome.connections:,} connections "
        f"with raw bytes, {outcome.seconds:.0f} s; {len(outcome.reached)} operations reached\n"
        f"tasks {before.tasks} -> {after.tasks}, descriptors {before.descriptors} -> "
        f"{after.descriptors}, memory {before.memory_mib:.0f} -> {after.memory_mib:.0f} MiB",
        highlight=False,
    )
    for finding in findings:
        console.print(finding, markup=False, highlight=False)
    console.print(f"{len(findings)} findings", style="red" if findings else "green")


def main() -> None:
    parser = argparse.ArgumentParser(description="Send faulty requests to the API.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="a random one, if not given")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    wire = int(options.requests * SHARE_ON_WIRE)
    outcome = asyncio.run(run(seed, options.requests - wire, wire))
    findings = [*outcome.findings, *outcome.leaks(MEMORY_LIMIT_MIB)]
    for name in TARGETS:
        findings += try_target(name, seed, options.requests // 10)
    report(outcome, findings)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
