"""Whole lives of MicroVMs, several at once, while the service is killed and its disk is full.

Workers run, ask, suspend, resume and terminate MicroVMs and insist on each step as a patient client
does. One more thread lets a fault strike now and then. After each batch the faults rest, and
record, API, processes and files must agree; everything that does not is a finding.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import botocore.exceptions
import httpx

from microvmd.cli.waiting import poll
from tests.holdings import WAITING, Place
from tests.servicelab import AUTO_RESUME, TOKEN_HEADER, Image, Service
from tests.smalldisk import SmallDisk, small_disk
from tests.soakfaults import FAULTS

SERVER = Path(__file__).parents[1] / "examples" / "static" / "server.c"
DOCKERFILE = b"""FROM scratch
COPY server /server
EXPOSE 8080
ENTRYPOINT ["/server"]
"""
DISK_MIB = 2560
"""A build wants one GiB free; the rest is what it makes."""
INSIST_LIMIT = 240.0
"""Seconds until a step that is tried again and again is a finding."""
SETTLE_LIMIT = 90.0
SPARE = {"descriptors": 24, "threads": 24, "mounts": 0, "interfaces": 0, "rules": 0}
"""What a service may hold more than at the first rest: connections of clients, threads at work."""
POOL_MEMORY_MIB = "128"
"""As it is by default: VMMs wait for runs here too, and are killed with all else."""
RATED = ("RUN", "SUSPEND", "RESUME", "TERMINATE", "GET", "AUTH_TOKEN", "OTHER")
DOWN = "its VMM ended while the service was down"
ENDED = "has been terminated"
TRANSIENT = (409, 429, 500, 502, 503)
Answer = TypeVar("Answer")


class SoakService(Service):
    """Its root is a file system of its own; no rates, for how fast calls come is not tested."""

    @property
    def root(self) -> Path:
        return self.directory.parent / "root"

    @property
    def environment(self) -> dict[str, str]:
        unlimited = {f"MICROVMD_LIMITS_{name}_RATE": "0" for name in RATED}
        return {**super().environment, **unlimited, "MICROVMD_POOL_MEMORY_MIB": POOL_MEMORY_MIB}

    def rules(self) -> int:
        """Lines of its table in the packet filter."""
        table = f"microvmd_{self.place.prefix}"
        listing = subprocess.run(
            ["nft", "list", "table", "inet", table], check=True, capture_output=True
        )
        return listing.stdout.count(b"\n")


class Stopped(Exception):
    """Whoever runs the soak wants it to end."""


class Over(Exception):
    """The MicroVM is TERMINATED though nobody asked for it."""


@dataclass(slots=True)
class Life:
    """One MicroVM. Its application counts requests: the next number tells whose state it is."""

    token: str = field(default_factory=lambda: str(uuid.uuid4()))
    id: str = ""
    endpoint: str = ""
    answered: int = 0
    """The number in the last answer."""
    asked: int = 0
    """Requests that were sent, whatever came of them."""
    auth: str = ""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the service holds while nothing is being changed."""

    descriptors: int
    threads: int
    memory_mib: int
    edge_memory_mib: int
    mounts: int
    interfaces: int
    rules: int

    def more_than(self, before: Holdings) -> list[str]:
        """Leaks: memory is only told, since a restart makes it small again."""
        found = []
        for name, spare in SPARE.items():
            had, has = getattr(before, name), getattr(self, name)
            if has > had + spare:
                found.append(f"{name}: {had} -> {has}")
        return found


@dataclass(slots=True)
class Soak:
    """All that the threads share. The seed chooses faults, victims and moments."""

    service: SoakService
    image: Image
    disk: SmallDisk
    seed: int
    workers: int = 3
    pause: float = 5.0
    """Mean of seconds between two faults."""
    faults: Sequence[str] = tuple(FAULTS)
    """Which of them strike."""
    counters: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    holdings: list[Holdings] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    kept: list[Life] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set by who wants it to end before all cycles are done; what runs is then terminated."""
    disk_full: int = 0
    """How often the disk was full so far; odd while it is."""

    # -- batches -----------------------------------------------------------------------------

    def batch(self, cycles: int) -> None:
        """So many lives under faults, then rest and compare."""
        if not self.kept:
            self.kept = [self._kept() for _ in range(2)]
        over = threading.Event()
        number = len(self.lives)
        with ThreadPoolExecutor(self.workers + 1) as pool:
            faults = pool.submit(self._strike_on, over, random.Random(f"{self.seed}:{number}"))
            working = [pool.submit(self._live, number + n) for n in range(cycles)]
            try:
                for work in working:
                    work.result()
            finally:
                over.set()
            faults.result()
        if not self.stopping.is_set():
            self.check()

    def _kept(self) -> Life:
        life = Life()
        api = self._api()
        self._run(api, life)
        self._ask(api, life)
        return life

    def _live(self, number: int) -> None:
        """One life from run to terminate. What it raises beyond Over is a finding."""
        dice, life, api = random.Random(f"{self.seed}:life:{number}"), Life(), self._api()
        self.lives.append(life)
        fulls = self.disk_full
        began = time.monotonic()
        try:
            self._run(api, life)
            self._ask(api, life)
            for _ in range(dice.choice((1, 1, 2))):
                self._suspend(api, life)
                if dice.random() < 0.5:
                    self._resume(api, life)
                self._ask(api, life)
            self._terminate(api, life)
            self.counters["cycles whole"] += 1
        except Stopped:
            return
        except Over as over:
            self._judge_end(life, str(over), fulls)
        except Exception as error:  # a thread's findings are told with all others
            self._find(f"{life.id}: {error!r}")
        self.counters["cycles"] += 1
        self.counters["seconds of cycles"] += round(time.monotonic() - began)

    def _judge_end(self, life: Life, reason: str, fulls: int) -> None:
        if life.id in self.killed:
            self.counters["ended: VMM was killed"] += 1
        elif not life.answered and DOWN in reason:
            self.counters["ended: serve ended while it started"] += 1
        elif not life.answered and (fulls != self.disk_full or self.disk_full % 2):
            self.counters["ended: disk full while it started"] += 1
        else:
            self._find(f"{life.id} was lost after {life.answered} requests: {reason}")

    def _find(self, what: str) -> None:
        self.findings.append(f"{time.strftime('%H:%M:%S')} {what}")

    # -- a patient client --------------------------------------------------------------------

    def _api(self) -> Any:
        return self.service.client("lambda-microvms")

    def _insist(self, what: str, attempt: Callable[[], Answer | None]) -> Answer:
        """Try until there is an answer; refusals that pass by themselves are counted."""

        def ask() -> Answer | None:
            if self.stopping.is_set():
                raise Stopped
            try:
                return attempt()
            except botocore.exceptions.ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                self.counters[f"{what}: {status} {error.response['Error']['Code']}"] += 1
                if ENDED in str(error):
                    raise Over(str(error)) from error
                if status not in TRANSIENT:
                    raise
            except (botocore.exceptions.BotoCoreError, httpx.TransportError, OSError) as error:
                self.counters[f"{what}: {type(error).__name__}"] += 1
            return None

        found = poll(ask, limit=INSIST_LIMIT)
        if found is None:
            raise AssertionError(f"not within {INSIST_LIMIT:.0f} s: {what}")
        return found

    def _run(self, api: Any, life: Life) -> None:
        def ask() -> Any:
            return api.run_microvm(
                imageIdentifier=self.image.arn, clientToken=life.token, idlePolicy=AUTO_RESUME
            )

        answer = self._insist("run", ask)
        life.id, life.endpoint = answer["microvmId"], answer["endpoint"]
        self._until(api, life, "RUNNING")

    def _state(self, api: Any, life: Life) -> str:
        found = api.get_microvm(microvmIdentifier=life.id)
        if found["state"] == "TERMINATED":
            raise Over(found.get("stateReason"))
        return str(found["state"])

    def _until(self, api: Any, life: Life, state: str) -> None:
        self._insist(f"wait {state}", lambda: self._state(api, life) == state or None)

    def _ask(self, api: Any, life: Life) -> None:
        """A request; it resumes what is SUSPENDED, and is answered by the very same process."""
        if not life.auth:
            life.auth = self._insist(
                "token", lambda: self._state(api, life) and self._token(api, life)
            )

        def ask() -> int | None:
            life.asked += 1
            with self.service.http() as client:
                answer = client.get(f"https://{life.endpoint}/", headers={TOKEN_HEADER: life.auth})
            if answer.status_code == 200:
                return int(answer.text.split()[1])
            self.counters[f"request: {answer.status_code}"] += 1
            self._state(api, life)
            return None

        number = self._insist("request", ask)
        if not life.answered < number <= life.asked:
            self._find(f"{life.id} answers {number} after {life.answered}, asked {life.asked}")
        life.answered = number

    def _token(self, api: Any, life: Life) -> str:
        answer = api.create_microvm_auth_token(
            microvmIdentifier=life.id, expirationInMinutes=60, allowedPorts=[{"port": 8080}]
        )
        return str(answer["authToken"][TOKEN_HEADER])

    def _suspend(self, api: Any, life: Life) -> None:
        """A suspend that fails is rolled back, and asked for again."""
        asked = 0

        def ask() -> bool | None:
            nonlocal asked
            state = self._state(api, life)
            if state == "RUNNING":
                asked += 1
                api.suspend_microvm(microvmIdentifier=life.id)
            return True if state == "SUSPENDED" else None

        self._insist("suspend", ask)
        self.counters["suspend: again"] += max(0, asked - 1)

    def _resume(self, api: Any, life: Life) -> None:
        def ask() -> bool | None:
            state = self._state(api, life)
            if state == "SUSPENDED":
                api.resume_microvm(microvmIdentifier=life.id)
            return True if state == "RUNNING" else None

        self._insist("resume", ask)

    def _terminate(self, api: Any, life: Life) -> None:
        def ask() -> bool | None:
            api.terminate_microvm(microvmIdentifier=life.id)
            found = api.get_microvm(microvmIdentifier=life.id)
            return True if found["state"] == "TERMINATED" else None

        self._insist("terminate", ask)

    # -- faults ------------------------------------------------------------------------------

    def _strike_on(self, over: threading.Event, dice: random.Random) -> None:
        while not over.wait(dice.expovariate(1 / self.pause)):
            name = dice.choice(self.faults)
            try:
                struck = FAULTS[name](self, dice)
                self._revive()
            except Exception as error:
                self._find(f"after {name}: {error!r}")
                self._revive()
            else:
                self.counters[f"fault: {name}"] += struck

    def _revive(self) -> None:
        """The service runs after each fault, as a service manager sees to; its own end is none."""
        process = self.service.process
        if process is not None and process.poll() is not None:
            self._find(f"serve ended by itself with {process.returncode}\n{self.service.said()}")
            self.service.process = None
        if self.service.process is None:
            self.service.launch()
        self.service.wait_healthy()

    def kill(self, pids: Callable[[], set[int]]) -> int:
        """SIGKILL to processes that are still meant once a descriptor holds them."""
        struck = 0
        for pid in pids():
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                try:
                    if pid in pids():
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                        struck += 1
                finally:
                    os.close(descriptor)
        return struck

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        self.disk_full += 1
        try:
            with self.disk.full():
                yield
        finally:
            self.disk_full += 1

    # -- at rest -----------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing is lost, doubled or left; what was kept goes on."""
        api = self._api()
        for life in self.kept:
            life.auth = ""  # a token lives for an hour at most, and they live longer
            try:
                self._ask(api, life)
            except Over as over:
                self._find(f"{life.id}, which was kept, was lost: {over}")
        self._suspend(api, self.kept[-1])
        last: list[str] = []

        def ask() -> bool | None:
            last[:] = [*self.service.strays(), *self._records()]
            return None if last else True

        if poll(ask, limit=SETTLE_LIMIT) is None:
            self.findings += [f"{time.strftime('%H:%M:%S')} at rest: {found}" for found in last]
        self.holdings.append(self._holdings())
        grown = self.holdings[-1].more_than(self.holdings[0])
        self.findings += [f"{time.strftime('%H:%M:%S')} leak: {found}" for found in grown]
        self.counters["rests"] += 1

    def _records(self) -> Iterator[str]:
        """Record, API and what the workers know, each MicroVM once."""
        states = self.service.states()
        with contextlib.closing(
            sqlite3.connect(f"file:{self.service.root}/state.db?mode=ro", uri=True)
        ) as store:
            rows = dict(store.execute("SELECT microvm_id, phase FROM microvms"))
        known = {life.id: "TERMINATED" for life in self.lives if life.id}
        known |= dict(zip((life.id for life in self.kept), ("RUNNING", "SUSPENDED"), strict=True))
        for name in states.keys() | rows.keys() | known.keys():
            seen = (known.get(name), states.get(name), rows.get(name))
            if len(set(seen)) != 1:
                yield f"{name} should be {seen[0]}, is {seen[1]}, in the record {seen[2]}"

    def _holdings(self) -> Holdings:
        assert self.service.process is not None
        own = Path("/proc") / str(self.service.process.pid)
        mounts = Path("/proc/self/mountinfo").read_text().count(f"{self.service.place.run}/")
        interfaces = sum(map(self.service.owns, os.listdir("/sys/class/net")))
        # Each has a network, and how many wait is the pool's business.
        waiting = sum(name.startswith(WAITING) for name in self.service.vmms())
        return Holdings(
            descriptors=len(os.listdir(own / "fd")),
            threads=len(os.listdir(own / "task")),
            memory_mib=_resident(self.service.process.pid) >> 20,
            edge_memory_mib=sum(map(_resident, self.service.haproxy())) >> 20,
            mounts=mounts - waiting,
            interfaces=interfaces - waiting,
            rules=self.service.rules(),
        )


def _resident(pid: int) -> int:
    pages = (Path("/proc") / str(pid) / "statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def on_small_disk(disk_mib: int) -> Iterator[tuple[SoakService, SmallDisk]]:
    """A service of its own whose root is a small disk."""
    with tempfile.TemporaryDirectory(prefix="mvt") as name:
        # The service's user passes through, and reads nothing here.
        Path(name).chmod(0o711)
        directory = Path(name) / "s"
        directory.mkdir()
        with small_disk(Path(name) / "root", disk_mib) as disk:
            service = SoakService(directory, Place.claim())
            try:
                service.start()
                yield service, disk
            finally:
                service.close()


@contextlib.contextmanager
def soaking(
    seed: int,
    *,
    workers: int,
    pause: float,
    faults: Sequence[str] = tuple(FAULTS),
    disk_mib: int = DISK_MIB,
) -> Iterator[Soak]:
    """Such a service with an image of a counting application."""
    with on_small_disk(disk_mib) as (service, disk):
        image = service.image("counter", {"Dockerfile": DOCKERFILE, "server": _server()})
        soak = Soak(service, image, disk, seed, workers=workers, pause=pause, faults=faults)
        yield soak
        soak.findings += _ended(soak)


def _server() -> bytes:
    """The application, made here instead of in the Dockerfile, which would install a compiler."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "server"
        subprocess.run(["gcc", "-static", "-O2", "-o", str(program), str(SERVER)], check=True)
        return program.read_bytes()


def _ended(soak: Soak) -> list[str]:
    """What is wrong once everything that was kept is terminated, too."""
    soak.service.terminate_all()
    left: list[str] = []

    def ask() -> bool | None:
        left[:] = soak.service.strays()
        return None if left else True

    poll(ask, limit=SETTLE_LIMIT)
    return left
