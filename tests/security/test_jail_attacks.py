"""What a VMM that was taken over reaches: a program that attacks is run by the jailer in its place.

Each attack goes through outside of a jail, as root with mounts of its own. In a jail it is refused
by what the jail is (user, namespaces, capabilities, root, limits) even without our filter of system
calls, or, where only that stands in its way, the test says so.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from microvmd.node import jail_root
from microvmd.node.cgroup import find_hierarchies
from microvmd.node.jail import Jails, limits_for
from microvmd.vmm.machine import AcceleratorKind, VmmCommand
from microvmd.vmm.process import Exit
from microvmd.vmm.qemu import surroundings
from tests import lanes

pytestmark = [pytest.mark.security, pytest.mark.vm, pytest.mark.root, pytest.mark.anyio]

SOURCE = Path(__file__).with_name("escape.c")
PROGRAM = "/usr/bin/escape"
LIMIT = 60
FORK_ERROR = "Resource temporarily unavailable"

# What stops it where there is no filter; None: only the filter does.
ATTACKS = {
    "read-host": "No such file or directory",
    "write-root": "Read-only file system",
    "own-dev": "Read-only file system",
    "ptrace": "No such process",
    "kill": "No such process",
    "mount": "Operation not permitted",
    "unshare": None,
    "setns": "No such file or directory",
    "become-root": "Operation not permitted",
    "connect": "Network is unreachable",
    "raw-socket": "Operation not permitted",
    "netlink": None,
    "keyring": None,
    "io-uring": None,
    "fork-bomb": FORK_ERROR,
}
# The filter lets these calls go, for files and start-up, or answers them with an error.
HOST_MAY_REFUSE = {"unshare", "io-uring"}
"""By sysctls that some distributions set."""
NOT_KILLED = {"read-host", "setns", "write-root", "io-uring"}


@dataclass(frozen=True)
class Target:
    """Something of the host that an attack is aimed at."""

    pid: int
    port: int

    def of(self, name: str) -> str:
        return str(self.port if name == "connect" else self.pid)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            yield Target(victim.pid, listener.getsockname()[1])
        finally:
            victim.kill()
            victim.communicate()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program: Path = tmp_path_factory.mktemp("escape") / "escape"
    subprocess.run(["gcc", "-static", "-O1", "-o", program, SOURCE], check=True, timeout=60)
    return program


@pytest.fixture(scope="module")
def root(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root that all jails have, with the program in it."""
    cache = tmp_path_factory.mktemp("root")
    made = asyncio.run(jail_root.prepare(cache, surroundings()))
    shutil.copy(program, made / PROGRAM.lstrip("/"))
    yield made
    shutil.rmtree(cache)


async def jailed(root: Path, tmp_path: Path, seccomp: str, *words: str) -> tuple[Exit, str]:
    """Run the program as a VMM is run; how it ended and what it said."""
    settings = replace(lanes.own().jails(root), seccomp=seccomp)
    jails = Jails(settings, root, find_hierarchies())
    with (tmp_path / "output").open("w+") as output:
        command = VmmCommand((PROGRAM, *words), (), (), output.fileno())
        async with (
            jails.jail("attack", limits_for(64, 1), AcceleratorKind.TCG) as jail,
            jail.launch(command) as process,
            asyncio.timeout(LIMIT),
        ):
            ended = await process.wait()
        output.seek(0)
        return ended, output.read().strip()


@pytest.mark.parametrize("name", ATTACKS)
def test_goes_through_outside(name: str, program: Path, target: Target) -> None:
    with _removed(Path("/tmp-of-escape"), Path("/dev/escape")):
        argv = ["unshare", "--mount", os.fspath(program), name, target.of(name)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout


@contextmanager
def _removed(*paths: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", [name for name, how in ATTACKS.items() if how is not None])
async def test_the_jail_refuses_it_without_a_filter(
    name: str, root: Path, target: Target, tmp_path: Path
) -> None:
    ended, said = await jailed(root, tmp_path, "off", name, target.of(name))
    assert (ended, said) == (Exit(code=1), f"refused: {ATTACKS[name]}")


@pytest.mark.parametrize("name", [name for name, how in ATTACKS.items() if how is None])
async def test_only_the_filter_refuses_it(
    name: str, root: Path, target: Target, tmp_path: Path
) -> None:
    ended, said = await jailed(root, tmp_path, "off", name, target.of(name))
    assert ended == Exit(code=0) or name in HOST_MAY_REFUSE, said


@pytest.mark.parametrize("name", ATTACKS)
async def test_the_filter_ends_who_tries(
    name: str, root: Path, target: Target, tmp_path: Path
) -> None:
    ended, said = await jailed(root, tmp_path, "enforce", name, target.of(name))
    if name in NOT_KILLED:
        assert (ended, said.startswith("refused: ")) == (Exit(code=1), True)
    else:
        assert (ended, said) == (Exit(signal=signal.SIGSYS), "")
    os.kill(target.pid, 0)


async def test_who_attacks_nothing_goes_on(root: Path, tmp_path: Path) -> None:
    ended, _ = await jailed(root, tmp_path, "enforce", "nothing")
    assert ended == Exit(code=0)
