"""Many faulty requests to the whole application in this process, and a look at what they left.

Request number N of a seed is always the same one, but for the names of what exists by then.
"""

import asyncio
import gc
import json
import logging
import os
import random
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from starlette.types import ASGIApp

from microvmd.control.store import Store
from microvmd.control.tokens import TokenIssuer
from tests.clients.inside import Reply, call
from tests.clients.live import application
from tests.fuzz import wire
from tests.fuzz.corpus import MANAGED, OPERATIONS, ROLE, World, real_request
from tests.fuzz.mutations import in_signature, mutate
from tests.fuzz.signing import Raw, Signer
from tests.fuzz.verdict import complaint, operation_of
from tests.fuzz.wire import Line

LIVE_LIMIT = 200
"""MicroVMs at once; then all are terminated, so that growth of memory means something."""
RUNNING_AT_START = 5
SHARE_UNSIGNED = 0.15
SHARE_WHOLE = 0.05
AT_ONCE = 16
"""Connections at once."""


@dataclass(frozen=True)
class Held:
    """What the process holds at one moment."""

    tasks: int = 0
    descriptors: int = 0
    memory_mib: float = 0.0


@dataclass
class Outcome:
    """What a campaign found, and the figures that show whether something leaked."""

    seed: int
    requests: int = 0
    connections: int = 0
    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    held: tuple[Held, Held] = (Held(), Held())
    microvm_rows: tuple[int, int] = (0, 0)
    """How many there are, and how many were answered for."""

    def leaks(self, memory_limit_mib: float) -> list[str]:
        """Growth that no request may cause."""
        before, after = self.held
        found = []
        if after.tasks > before.tasks:
            found.append(f"tasks: {before.tasks} -> {after.tasks}")
        if after.descriptors > before.descriptors:
            found.append(f"descriptors: {before.descriptors} -> {after.descriptors}")
        if after.memory_mib - before.memory_mib > memory_limit_mib:
            found.append(f"memory: {before.memory_mib:.0f} -> {after.memory_mib:.0f} MiB")
        if self.microvm_rows[0] != self.microvm_rows[1]:
            found.append(f"rows and answers of MicroVMs: {self.microvm_rows}")
        return found


@contextmanager
def errors_logged() -> Iterator[list[str]]:
    """Collects what the log calls an error, from structlog and from logging; drops the rest."""
    found: list[str] = []

    def keep(_: Any, level: str, event: MutableMapping[str, Any]) -> str:
        if level in ("error", "exception", "critical"):
            found.append(str(structlog.processors.format_exc_info(None, level, event)))
        raise structlog.DropEvent

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    before = structlog.get_config()
    handler = Keep(logging.ERROR)
    structlog.configure(processors=[keep], cache_logger_on_first_use=False)
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)
        structlog.configure(**before)


class Campaign:
    """Sends faulty requests to one application, and knows what exists in it."""

    def __init__(self, app: ASGIApp, outcome: Outcome, errors: list[str]) -> None:
        self._app = app
        self._outcome = outcome
        self._errors = errors
        self._signer = Signer()
        self.world = World()
        self.made: set[str] = set()
        self._prepared = 0
        self._others = (
            Signer(secret="another"),
            Signer(access_key="AKIANOBODY"),
            Signer(region="eu-west-1"),
            Signer(service="s3"),
            Signer(service="ec2"),
            Signer(late=timedelta(minutes=6)),
            Signer(late=timedelta(minutes=-6)),
            Signer(late=timedelta(days=400)),
        )

    async def prepare(self) -> None:
        """An image that runs, some MicroVMs of it, and cursors of two lists.

        Every time another image: an attack may have deleted the last one.
        """
        self._prepared += 1
        body = (
            f'{{"name":"app-{self._prepared}","baseImageArn":"{MANAGED}","buildRoleArn":"{ROLE}",'
            '"codeArtifact":{"uri":"s3://bucket/key.zip"}}'
        )
        made = await self._real("POST", "/2025-09-09/microvm-images", body)
        image = made["imageArn"]
        self.world.images = [image]
        path = f"/2025-09-09/microvm-images/{image.replace(':', '%3A')}"
        await self._built(path)
        builds = await self._real("GET", f"{path}/versions/1.0/builds")
        self.world.builds = [item["buildId"] for item in builds["items"]]
        await self._run_some()
        for name in ("microvms?maxResults=2", "microvm-images?maxResults=1"):
            token = (await self._real("GET", f"/2025-09-09/{name}"))["nextToken"]
            if token is not None:
                self.world.cursors = [*self.world.cursors[-3:], token]

    async def _built(self, path: str) -> None:
        for _ in range(1000):
            if (await self._real("GET", path))["latestActiveImageVersion"] is not None:
                return
            await asyncio.sleep(0.001)
        raise AssertionError("the image is not built")

    async def _run_some(self) -> None:
        body = f'{{"imageIdentifier":"{self.world.images[0]}"}}'
        made = [
            await self._real("POST", "/2025-09-09/microvms", body) for _ in range(RUNNING_AT_START)
        ]
        self.world.microvms = [item["microvmId"] for item in made]

    async def _real(self, method: str, target: str, body: str = "") -> dict[str, Any]:
        raw = Raw(method, target, [], body.encode())
        self._signer.sign(raw)
        reply = await self._send(raw)
        assert reply.status < 300, (raw, reply)
        found: dict[str, Any] = json.loads(reply.body or b"{}")
        self._learn(raw, reply)
        return found

    async def attack(self, number: int) -> None:
        """Request ``number`` of the seed."""
        rng = random.Random(f"{self._outcome.seed}:{number}")
        raw = self.request(rng)
        reply = await self._send(raw)
        wrong = complaint(raw, reply)
        if self._errors:
            wrong = f"{wrong or ''} logged: {' '.join(self._errors)}"
            self._errors.clear()
        if wrong is not None:
            self.report(number, raw, reply, wrong)
        self._learn(raw, reply)
        if len(self.world.microvms) > LIVE_LIMIT:
            await self._terminate_all()
            await self.prepare()

    def request(self, rng: random.Random) -> Raw:
        """A real request with faults: most are signed after, some before or wrongly."""
        raw = real_request(rng.choice(OPERATIONS), self.world, rng)
        if rng.random() >= SHARE_WHOLE:
            mutate(raw, rng)
        if rng.random() < SHARE_UNSIGNED:
            signer = rng.choice([self._signer, self._signer, *self._others])
            signer.sign(raw)
            rng.choice([in_signature, in_signature, mutate])(raw, rng)
        else:
            self._signer.sign(raw)
        return raw

    async def attack_many(self, line: Line, numbers: Iterator[int], until: float) -> None:
        """Take one number after the other, until there is none or no time."""
        for number in numbers:
            if time.monotonic() > until:
                return
            await self.attack_wire(line, number)

    async def attack_wire(self, line: Line, number: int) -> None:
        """Connection ``number`` of the seed: raw bytes."""
        rng = random.Random(f"{self._outcome.seed}:wire:{number}")
        raw = real_request(rng.choice(OPERATIONS), self.world, rng)
        if rng.random() < 0.3:
            mutate(raw, rng)
            raw.headers = [(k, v) for k, v in raw.headers if k.lower() in wire.KEPT]
        self._signer.sign(raw)
        talk = rng.choice(wire.BREAKS)(raw, rng)
        received = await line.talk(talk)
        found = wire.wrong(raw, talk, received)
        self._outcome.connections += 1
        if self._errors:
            found = f"{found or ''} logged: {' '.join(self._errors)}"
            self._errors.clear()
        if found is not None:
            self._outcome.findings.append(
                f"wire #{number}: {found}\n  {b''.join(talk.pieces)[:900]!r}"
            )

    async def _send(self, raw: Raw) -> Reply:
        return await call(self._app, raw.method, raw.target, raw.headers, raw.body)

    def report(self, number: int, raw: Raw, reply: Reply, wrong: str) -> None:
        """Keep a finding with all that is needed to see it again."""
        self._outcome.findings.append(
            f"#{number}: {wrong}\n  {raw.method} {raw.target[:500]}\n  {raw.headers!r:.900}\n"
            f"  {raw.body[:500]!r}\n  -> {reply.status} {reply.body[:500]!r}"
        )

    def _learn(self, raw: Raw, reply: Reply) -> None:
        self._outcome.requests += 1
        code = reply.header("x-amzn-errortype") or "-"
        self._outcome.answers[f"{reply.status} {code}"] += 1
        operation = operation_of(raw)
        if operation is None or reply.status == 403:
            return
        self._outcome.reached[operation.name] += 1
        if reply.status == 200 and operation.name == "RunMicrovm":
            name = json.loads(reply.body)["microvmId"]
            self.world.microvms.append(name)
            self.made.add(name)
        if reply.status == 201 and operation.name == "CreateMicrovmImage":
            self.world.images = [*self.world.images[:1], *self.world.images[-3:]]
            self.world.images.append(json.loads(reply.body)["imageArn"])

    async def settle(self) -> None:
        """Until the node has carried out what it was told."""
        await self._terminate_all()

    async def _terminate_all(self) -> None:
        for microvm_id in set(self.world.microvms):
            await self._real("DELETE", f"/2025-09-09/microvms/{microvm_id}")


@asynccontextmanager
async def _service(directory: Path) -> AsyncIterator[ASGIApp]:
    async with (
        Store.at(directory / "state.db") as store,
        application(store, directory, TokenIssuer(directory / "keys")) as app,
    ):
        yield app


async def run(seed: int, requests: int, connections: int = 0, *, limit: float = 1e9) -> Outcome:
    """Up to so many requests in process, then connections with raw bytes, in ``limit`` seconds."""
    outcome = Outcome(seed)
    with tempfile.TemporaryDirectory(prefix="fuzz") as name, errors_logged() as errors:
        async with _service(Path(name)) as app:
            campaign = Campaign(app, outcome, errors)
            await campaign.prepare()
            began = time.monotonic()
            # Caches fill first, and SQLite keeps a descriptor of whoever looked into its file.
            _rows(Path(name) / "state.db")
            warm = max(1, requests // 10)
            before = _held()
            for number in range(requests):
                if number == warm:
                    before = _held()
                await campaign.attack(number)
                if time.monotonic() - began > limit:
                    break
            outcome.microvm_rows = _rows(Path(name) / "state.db"), len(campaign.made)
            async with wire.listening(app) as line:
                numbers = iter(range(connections))
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(AT_ONCE):
                        tasks.create_task(campaign.attack_many(line, numbers, began + limit))
            outcome.seconds = time.monotonic() - began
            await campaign.settle()
            outcome.held = (before, await _settled(before))
    return outcome


def _rows(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM microvms").fetchone()[0])


async def _settled(before: Held) -> Held:
    """What is held when all that ends by itself has had time to."""
    for _ in range(200):
        held = _held()
        if held.tasks <= before.tasks and held.descriptors <= before.descriptors:
            break
        await asyncio.sleep(0.01)
    return held


def _held() -> Held:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    descriptors = len(os.listdir("/proc/self/fd"))
    return Held(len(asyncio.all_tasks()), descriptors, resident / 2**20)
