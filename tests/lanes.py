"""Names, addresses and user ids that are the machine's: who of the tests has which of them.

Whoever makes networks, jails or control groups claims a lane, so that any number of test runs, and
the workers of one, go on beside one another. A claim is a locked file, which the kernel frees when
its process ends, however that ends. The file holds words by which the leak check (`leaks.py`)
tells what another process is at work with.
"""

import asyncio
import atexit
import contextlib
import fcntl
import functools
import ipaddress
import itertools
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from microvmd.node.jail import JailSettings
from microvmd.node.slots import NetworkSettings
from microvmd.vmm.qemu import program_of, surroundings
from tests.accelerated import accelerator
from tests.checkout import ASSETS

LANES = 26
UIDS = 4096
FIRST_UID = 3_100_000
STEP = 0.05
FIRST_PORT, PORTS = 20_000, 400
"""Below those that the kernel gives to connections; and so many for each process."""


@dataclass(frozen=True)
class Lane:
    """A share of the machine. ``lock`` is open as long as it is claimed."""

    number: int
    lock: IO[str]

    @classmethod
    def claim(cls, *words: str) -> "Lane":
        """Until its lock is closed, or this process ends. ``words``: what else belongs to it."""
        for number in range(LANES):
            lock = hold(f"lane-{number}", _prefix(number), *words)
            if lock is not None:
                return cls(number, lock)
        raise AssertionError(f"all {LANES} lanes are claimed: other test runs go on")

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, *words: str) -> Iterator["Lane"]:
        lane = cls.claim(*words)
        try:
            yield lane
        finally:
            lane.lock.close()

    @property
    def prefix(self) -> str:
        return _prefix(self.number)

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.216.{self.number + 1}.0/24")

    @property
    def group(self) -> str:
        """Of control groups."""
        return f"microvmd-{self.prefix}"

    @property
    def first_uid(self) -> int:
        return FIRST_UID + self.number * UIDS

    def networks(self, run: Path) -> NetworkSettings:
        """Made when they are asked for, none in store."""
        return NetworkSettings(run, self.prefix, self.subnet, ready=0)

    def jails(self, cache: Path) -> JailSettings:
        """Whose root lies in this cache."""
        return JailSettings(
            ASSETS / "microvmd-jailer",
            cache,
            self.group,
            self.first_uid,
            surroundings=surroundings(program_of(accelerator())),
        )


def _prefix(number: int) -> str:
    return f"ln{chr(ord('a') + number)}"


@functools.cache
def own() -> Lane:
    """This process's, for tests that come one after the other."""
    lane = Lane.claim()
    atexit.register(lane.lock.close)
    return lane


@functools.cache
def _ports() -> Iterator[int]:
    """Again and again those that this process has for itself."""
    for number in range(LANES):
        lock = hold(f"ports-{number}")
        if lock is not None:
            atexit.register(lock.close)
            first = FIRST_PORT + number * PORTS
            return itertools.cycle(range(first, first + PORTS))
    raise AssertionError(f"the ports of all {LANES} processes are claimed: other test runs go on")


def free_port() -> int:
    """For a program that is told its port: no other test takes it before it listens there, and no
    connection has it for its own end. HAProxies would share it and not complain."""
    for port in itertools.islice(_ports(), PORTS):
        with contextlib.suppress(OSError):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(type=kind) as probe:
                    probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"{PORTS} ports are in use")


def hold(name: str, *words: str) -> IO[str] | None:
    """The file that holds this claim until it is closed, or None when another has it."""
    lock = _path(name).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    lock.truncate(0)
    lock.write("\n".join([str(os.getpid()), *words]))
    lock.flush()
    return lock


@contextlib.asynccontextmanager
async def alone(name: str, *words: str) -> AsyncIterator[None]:
    """For what a machine has once: wait until no other process has it."""
    while (lock := hold(name, *words)) is None:  # noqa: ASYNC110 - its end tells nobody
        await asyncio.sleep(STEP)
    try:
        yield
    finally:
        lock.close()


@dataclass(frozen=True)
class Others:
    """What other processes have claimed."""

    words: frozenset[str]

    @classmethod
    def now(cls) -> "Others":
        places = _path("*")
        return cls(frozenset().union(*map(_of, places.parent.glob(places.name))))

    def spare(self, names: frozenset[str]) -> frozenset[str]:
        """Without names that say that something is theirs: `lna3` is of the lane `lna`."""
        return frozenset(name for name in names if not self._own(name))

    def _own(self, name: str) -> bool:
        return any(re.search(f"(?<![a-z0-9]){re.escape(one)}(?![a-z])", name) for one in self.words)


def _path(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"microvmd-tests-{name}.lock"


def _of(path: Path) -> Sequence[str]:
    """Words of a claim that another process holds."""
    with contextlib.suppress(OSError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, *words = file.read().splitlines() or [""]
            return [] if pid == str(os.getpid()) else words
    return []
