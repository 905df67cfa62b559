"""The API under load: thousands of GetMicrovm and many RunMicrovm in flight at the same moment.

Real HTTP on as many connections as there are requests, signed as clients sign, against a running
service (one is started if none runs) with real MicroVMs of a tiny image. Afterwards the record is
compared with the answers: every run answered once and listed once, no state lost. Prints a table
and writes JSON below ``build/bench``.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import typer
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from rich.table import Table

from bench.results import percentile, write
from microvmd.cli.client import Service
from microvmd.cli.demo import running_service
from microvmd.cli.failure import reported
from microvmd.cli.images import BuildOptions, build_image
from microvmd.cli.output import console, duration
from microvmd.cli.waiting import wait_for_microvm
from microvmd.service.failure import Failure
from microvmd.settings.settings import load

IMAGE = "bench-static"
EXAMPLE = Path(__file__).parents[1] / "examples" / "static"
PREFIX = "/2025-09-09/microvms"
SPARE_DESCRIPTORS = 200
RATED = ("RUN", "SUSPEND", "RESUME", "TERMINATE", "GET", "AUTH_TOKEN", "OTHER")
# The service is measured, not its refusals: a service that is started here has no rates.
OFF = {f"MICROVMD_LIMITS_{name}_RATE": "0" for name in RATED}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to; seconds from sending it to the end of the answer."""

    status: int
    body: Any
    seconds: float


class Client:
    """Signed requests over plain sockets: no more work here than is needed to measure."""

    def __init__(self, service: Service) -> None:
        self._service = service
        split = urlsplit(service.endpoint_url)
        assert split.hostname is not None
        self._place = split.hostname, split.port or 80
        credentials = service.session.get_credentials()
        assert credentials is not None
        self._signer = SigV4Auth(credentials.get_frozen_credentials(), "lambda", service.region)

    def get(self, name: str) -> bytes:
        return self._signed("GET", f"{PREFIX}/{name}")

    def run(self, image_arn: str, token: str) -> bytes:
        body = {"imageIdentifier": image_arn, "clientToken": token}
        return self._signed("POST", PREFIX, json.dumps(body).encode())

    def _signed(self, method: str, path: str, body: bytes = b"") -> bytes:
        host = f"{self._place[0]}:{self._place[1]}"
        request = AWSRequest(method, f"http://{host}{quote(path)}", data=body)
        request.headers["Host"] = host
        self._signer.add_auth(request)
        request.headers["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        return f"{method} {quote(path)} HTTP/1.1\r\n{head}\r\n".encode() + body

    async def connect(self, count: int) -> "list[Line]":
        return [Line(*await asyncio.open_connection(*self._place)) for _ in range(count)]


@dataclass(slots=True)
class Line:
    """One connection that stays open."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes) -> Answer:
        began = time.perf_counter()
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        sizes = (line for line in lines if line.lower().startswith(b"content-length:"))
        body = await self.reader.readexactly(int(next(sizes).split(b":")[1]))
        seconds = time.perf_counter() - began
        return Answer(int(lines[0].split(b" ")[1]), json.loads(body), seconds)

    def close(self) -> None:
        self.writer.close()


@dataclass(frozen=True, slots=True)
class Round:
    """Everything in flight at once, and how long all of it took."""

    gets: list[Answer]
    runs: list[Answer]
    seconds: float


class Lab:
    """A client beside MicroVMs that exist."""

    def __init__(self, service: Service, image_arn: str) -> None:
        self.service = service
        self.image_arn = image_arn
        self.client = Client(service)
        self.wrong: list[str] = []

    async def round(self, gets: int, runs: int, known: Sequence[str]) -> Round:
        """Connect, then send all at the same moment."""
        tokens = [str(uuid.uuid4()) for _ in range(runs)]
        wanted = [known[number % len(known)] for number in range(gets)]
        lines = await self.client.connect(gets + runs)
        requests = [self.client.get(name) for name in wanted]
        # Runs go in between.
        step = max(1, gets // max(1, runs))
        for number, token in enumerate(tokens):
            requests.insert(number * (step + 1), self.client.run(self.image_arn, token))
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(line.ask(request) for line, request in zip(lines, requests, strict=True))
        )
        seconds = time.perf_counter() - began
        for line in lines:
            line.close()
        ran = [answers[number * (step + 1)] for number in range(runs)]
        others = set(map(id, ran))
        got = [answer for answer in answers if id(answer) not in others]
        self._check_gets(got, wanted)
        await self._check_runs(ran, tokens)
        return Round(got, ran, seconds)

    def _check_gets(self, answers: Sequence[Answer], wanted: Sequence[str]) -> None:
        for answer, name in zip(answers, wanted, strict=True):
            if answer.status != 200 or answer.body["microvmId"] != name:
                self.wrong.append(f"GetMicrovm {name}: {answer.status} {answer.body}")

    async def _check_runs(self, answers: Sequence[Answer], tokens: Sequence[str]) -> None:
        """Each made one MicroVM, which its token still names."""
        names = [answer.body.get("microvmId") for answer in answers]
        self.wrong += [f"RunMicrovm: {a.status} {a.body}" for a in answers if a.status != 200]
        self.wrong += [
            f"{name} was answered {n} times" for name, n in Counter(names).items() if n > 1
        ]
        lines = await self.client.connect(1)
        for name, token in zip(names, tokens, strict=True):
            again = await lines[0].ask(self.client.run(self.image_arn, token))
            if again.body.get("microvmId") != name:
                self.wrong.append(f"the token of {name} gives {again.body}")
        lines[0].close()

    async def sustained(self, known: Sequence[str], connections: int, seconds: float) -> float:
        """GetMicrovm a second, with so many in flight at any moment."""
        requests = [self.client.get(name) for name in known]
        lines = await self.client.connect(connections)
        until, count = time.perf_counter() + seconds, 0

        async def ask_on(line: Line) -> None:
            nonlocal count
            number = 0
            while time.perf_counter() < until:
                answer = await line.ask(requests[number % len(requests)])
                number += 1
                count += answer.status == 200

        await asyncio.gather(*map(ask_on, lines))
        for line in lines:
            line.close()
        return count / seconds

    def check_list(self, names: Iterable[str], state: str) -> None:
        """Every one of them is listed once, in this state."""
        wanted = set(names)
        listed = Counter(item["microvmId"] for item in self.service.list_microvms())
        states = {item["microvmId"]: item["state"] for item in self.service.list_microvms()}
        for name in wanted:
            if listed[name] != 1 or states[name] != state:
                self.wrong.append(f"{name} is listed {listed[name]} times, {states.get(name)}")

    def settle(self, names: Iterable[str], state: str) -> None:
        for name in names:
            wait_for_microvm(self.service, name, state, limit=600)

    def terminate(self, names: Iterable[str]) -> None:
        for name in names:
            self.service.microvms.terminate_microvm(microvmIdentifier=name)


async def measure(lab: Lab, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds with everything at once, then a steady load."""
    first = (await lab.round(0, 1, [])).runs[0].body["microvmId"]
    alive, rounds = [first], []
    try:
        await asyncio.to_thread(lab.settle, alive, "RUNNING")
        for _ in range(options.rounds):
            found = await lab.round(options.gets, options.runs, alive)
            rounds.append(found)
            made = [answer.body["microvmId"] for answer in found.runs if answer.status == 200]
            await asyncio.to_thread(lab.settle, made, "RUNNING")
            await asyncio.to_thread(lab.check_list, [first, *made], "RUNNING")
            await asyncio.to_thread(lab.terminate, made)
            await asyncio.to_thread(lab.settle, made, "TERMINATED")
            await asyncio.to_thread(lab.check_list, made, "TERMINATED")
        rate = await lab.sustained(alive, options.connections, options.seconds)
    finally:
        await asyncio.to_thread(lab.terminate, alive)
    return report(rounds, rate, options)


def report(rounds: Sequence[Round], rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """Print the table; give what is written as JSON."""
    table = Table(box=None, header_style="bold")
    for column in ("", "in flight", "p50", "p99", "most"):
        table.add_column(column, justify="left" if not column else "right")
    results: dict[str, Any] = {}
    for name, count, answers in (
        ("GetMicrovm", options.gets, [one for item in rounds for one in item.gets]),
        ("RunMicrovm", options.runs, [one for item in rounds for one in item.runs]),
    ):
        times = [answer.seconds for answer in answers]
        shown = (percentile(times, 0.5), percentile(times, 0.99), max(times))
        table.add_row(name, f"{count:,}", *(duration(one) for one in shown))
        results[name] = {"in_flight": count, "p50": shown[0], "p99": shown[1], "samples": times}
    console.print(table)
    slowest = max(item.seconds for item in rounds)
    burst = (options.gets + options.runs) / slowest
    console.print(
        f"all answered within {duration(slowest)}: {burst:,.0f} a second; "
        f"steady, {options.connections} in flight: {rate:,.0f} GetMicrovm a second",
        highlight=False,
    )
    return {**results, "rounds": [item.seconds for item in rounds], "steady_per_second": rate}


async def bench(options: argparse.Namespace) -> None:
    settings = load()
    async with running_service(settings):
        service = Service(settings)
        build = BuildOptions(name=IMAGE, memory=512)
        image = await asyncio.to_thread(build_image, service, EXAMPLE, build, show_log=False)
        lab = Lab(service, image["imageArn"])
        results = await measure(lab, options)
        if lab.wrong:
            raise Failure(f"{len(lab.wrong)} answers are wrong", "\n".join(lab.wrong[:20]))
        console.print("every run answered once and listed once, in the right states", style="green")
        write("api", results)


def _allow_descriptors(wanted: int) -> None:
    """For this process and the service that it may start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the API under load.")
    parser.add_argument("--gets", type=int, default=2000, help="GetMicrovm in flight at once")
    parser.add_argument("--runs", type=int, default=50, help="RunMicrovm in flight at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64, help="of the steady load")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the steady load")
    options = parser.parse_args()
    os.environ.update(OFF)
    _allow_descriptors(options.gets + options.runs + SPARE_DESCRIPTORS)
    try:
        with reported():
            asyncio.run(bench(options))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


if __name__ == "__main__":
    main()
