"""What neighbours feel of a MicroVM that attacks: latency over the edge, quiet and under attack.

The attacker is root with every capability (`tests/apps/attacker`); each attack has a MicroVM of its
own, which is terminated afterwards. The neighbours are asked on kept connections at a steady
rate, first while the attacker is idle, then as long while it attacks, again and again where an
attack ends by itself: so each attack is compared with the minute before it, not with a machine that
was another one when the measurement began. Prints a table and writes JSON below ``build/bench``.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
AGAIN_S = 0.5
"""Seconds until an attack that has ended by itself is begun again."""
PARTS = ("quiet", "attacked")
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
    "port of the agent": "seize/small",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A MicroVM, and what a caller needs."""

    name: str
    url: str
    token: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of requests beside an idle attacker, and beside the same one that attacks."""

    quiet: list[float]
    attacked: list[float]
    begun: "Future[int]"

    def result(self) -> dict[str, Any]:
        quiet, attacked = summary(self.quiet), summary(self.attacked)
        ratio = attacked["p99"] / quiet["p99"]
        return {"quiet": quiet, "attacked": attacked, "ratio": ratio, "begun": self.begun.result()}


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

    def attacked(self, attack: str, neighbours: Sequence[Endpoint]) -> Pair:
        """The same beside another MicroVM, which is idle first and then attacks."""
        over = threading.Event()
        with self.microvm() as attacker, ThreadPoolExecutor(1) as pool:
            quiet = self.latencies(neighbours)
            attacking = pool.submit(self._attack, attacker, attack, over)
            try:
                return Pair(quiet, self.latencies(neighbours), attacking)
            finally:
                over.set()

    def _attack(self, attacker: Endpoint, attack: str, over: threading.Event) -> int:
        """How often it was begun. A guest that is busy attacking answers no more."""
        begun = 0
        with self.service.endpoint_client() as client:
            while not over.is_set():
                begun += 1
                with suppress(*LOST):
                    client.get(
                        f"{attacker.url}/{attack}",
                        headers={TOKEN_HEADER: attacker.token},
                        timeout=self.seconds,
                    )
                over.wait(AGAIN_S)
        return begun


def summary(found: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(found),
        "p50": percentile(found, 0.5),
        "p99": percentile(found, 0.99),
        "slowest": max(found),
    }


def report(pairs: dict[str, Pair]) -> dict[str, Any]:
    """Print the table; give what is written as JSON."""
    table = Table(box=None, header_style="bold")
    for column in ("", "requests", "quiet p50", "p99", "attacked p50", "p99", "times quiet"):
        table.add_column(column, justify="left" if not column else "right")
    results: dict[str, Any] = {"bound": BOUND}
    for name, pair in pairs.items():
        one = results[name] = pair.result()
        times = [duration(one[part][what]) for part in PARTS for what in ("p50", "p99")]
        over = " (over the promise)" if one["ratio"] >= BOUND else ""
        table.add_row(name, str(len(pair.attacked)), *times, f"{one['ratio']:.1f}{over}")
    console.print(table)
    return results


def measure(lab: Lab, count: int, names: Sequence[str]) -> None:
    lab.build()
    with ExitStack() as stack:
        neighbours = [stack.enter_context(lab.microvm()) for _ in range(count)]
        lab.latencies(neighbours)  # for the caches
        pairs = {}
        for name in names:
            pairs[name] = lab.attacked(ATTACKS[name], neighbours)
            console.print(f"[dim]{name}: {pairs[name].result()['ratio']:.1f} times[/]")
    write("neighbours", report(pairs))


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
