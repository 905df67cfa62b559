"""What neighbours feel of a MicroVM that attacks: latency over the edge, quiet and under attack.

The attacker is root with every capability (`tests/apps/attacker`); each attack has a MicroVM of its
own, which is terminated afterwards. The neighbours are asked on kept connections at a steady
rate, as long quiet as under each attack. Prints a table and writes JSON below ``build/bench``.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import typer
from rich.table import Table

from bench.results import percentile, write
from microvmd.cli.client import TOKEN_HEADER, Service, idle_policy
from microvmd.cli.demo import running_service
from microvmd.cli.failure import reported
from microvmd.cli.images import BuildOptions, build_image
from microvmd.cli.output import console, duration
from microvmd.cli.waiting import wait_for_microvm
from microvmd.service.failure import Failure
from microvmd.settings.settings import load

IMAGE = "bench-attacker"
PROGRAM = Path(__file__).parents[1] / "tests" / "apps" / "attacker" / "attacker.c"
DOCKERFILE = 'FROM scratch\nCOPY attacker /attacker\nCMD ["/attacker"]\n'
BOUND = 2.0
"""The promise: p99 under attack is less than so many times the quiet one."""
RATE = 8
"""Requests to a neighbour per second: fewer than the edge lets through to the smallest."""
LOST = (httpx.HTTPError, OSError)
FRAME = "020000000001" + "020000000002" + "0800" + "45000014" + "00000000" * 10
"""To the gateway, in IPv4 and from nowhere."""
ATTACKS = {
    "processes": "forks/1000000",
    "memory": "memory/100000",
    "disk": "fill/100000",
    "log lines": "flood/100000",
    "empty log lines": "lines/100000",
    "connections": "syns/192.0.2.1/65535",
    "frames": f"frame/{FRAME}/100000000",
    "port of the agent": "seize/slow",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A MicroVM, and what a caller needs."""

    name: str
    url: str
    token: str


class Lab:
    """The client's side."""

    def __init__(self, service: Service, seconds: float) -> None:
        self.service = service
        self.seconds = seconds
        self.image_arn = ""

    def build(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            context = Path(directory)
            program = context / "attacker"
            subprocess.run(
                ["gcc", "-O1", "-static", "-o", program, PROGRAM],
                check=True,
                timeout=60,
            )
            (context / "Dockerfile").write_text(DOCKERFILE)
            options = BuildOptions(name=IMAGE, memory=512, all_capabilities=True)
            self.image_arn = build_image(self.service, context, options, show_log=False)["imageArn"]

    @contextmanager
    def microvm(self) -> Iterator[Endpoint]:
        started = self.service.microvms.run_microvm(
            imageIdentifier=self.image_arn, idlePolicy=idle_policy()
        )
        name = started["microvmId"]
        try:
            wait_for_microvm(self.service, name, "RUNNING")
            yield Endpoint(name, f"https://{started['endpoint']}", self.service.token(name))
        finally:
            self.service.microvms.terminate_microvm(microvmIdentifier=name)

    def latencies(self, neighbours: Sequence[Endpoint]) -> list[float]:
        """Seconds of each request to each neighbour. Raises Failure when one is not answered."""
        with ThreadPoolExecutor(len(neighbours)) as pool:
            return [one for found in pool.map(self._ask, neighbours) for one in found]

    def _ask(self, neighbour: Endpoint) -> list[float]:
        """One request each `1 / RATE` s; a late one counts from when it was due."""
        found = []
        with self.service.endpoint_client() as client:
            began = time.perf_counter()
            for number in range(int(self.seconds * RATE)):
                due = began + number / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
                answer = client.get(neighbour.url, headers={TOKEN_HEADER: neighbour.token})
                if answer.status_code != 200:
                    raise Failure(f"{neighbour.name} answered {answer.status_code}")
                found.append(time.perf_counter() - due)
        return found

    def attacked(self, attack: str, neighbours: Sequence[Endpoint]) -> list[float]:
        """The same while another MicroVM attacks."""
        with self.microvm() as attacker:
            thread = threading.Thread(target=self._attack, args=(attacker, attack), daemon=True)
            thread.start()
            return self.latencies(neighbours)

    def _attack(self, attacker: Endpoint, attack: str) -> None:
        # It is over when the MicroVM is, at the latest.
        with suppress(*LOST), self.service.endpoint_client() as client:
            url = f"{attacker.url}/{attack}"
            client.get(url, headers={TOKEN_HEADER: attacker.token}, timeout=self.seconds)


def summary(found: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(found),
        "p50": percentile(found, 0.5),
        "p99": percentile(found, 0.99),
        "slowest": max(found),
    }


def report(quiet: Sequence[float], attacks: dict[str, list[float]]) -> dict[str, Any]:
    """Print the table; give what is written as JSON."""
    table = Table(box=None, header_style="bold")
    for column in ("", "requests", "p50", "p99", "times quiet"):
        table.add_column(column, justify="left" if not column else "right")
    before = summary(quiet)
    results: dict[str, Any] = {"quiet": before, "bound": BOUND}
    for name, found in {"quiet": list(quiet), **attacks}.items():
        one = summary(found)
        ratio = one["p99"] / before["p99"]
        table.add_row(
            name,
            str(int(one["count"])),
            duration(one["p50"]),
            duration(one["p99"]),
            f"{ratio:.1f}{' (over the promise)' if ratio >= BOUND else ''}",
        )
        results[name] = {**one, "ratio": ratio}
    console.print(table)
    return results


def measure(lab: Lab, count: int, names: Sequence[str]) -> None:
    lab.build()
    with ExitStack() as stack:
        neighbours = [stack.enter_context(lab.microvm()) for _ in range(count)]
        lab.latencies(neighbours)  # for the caches
        quiet = lab.latencies(neighbours)
        attacks = {}
        for name in names:
            attacks[name] = lab.attacked(ATTACKS[name], neighbours)
            console.print(f"[dim]{name}: p99 {duration(summary(attacks[name])['p99'])}[/]")
        write("neighbours", report(quiet, attacks))


async def bench(options: argparse.Namespace) -> None:
    settings = load()
    async with running_service(settings):
        lab = Lab(Service(settings), options.seconds)
        await asyncio.to_thread(measure, lab, options.neighbours, options.attack or [*ATTACKS])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure neighbours of a MicroVM that attacks.")
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--attack", choices=[*ATTACKS], action="append", help="these only")
    options = parser.parse_args()
    try:
        with reported():
            asyncio.run(bench(options))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


if __name__ == "__main__":
    main()
