"""Nothing a test starts may outlive it: processes, namespaces, mounts, taps, tables, files, fds.

What this process made itself (children, descriptors, mounts and half-written files below the
test's directory) is checked always. Things that only their name gives away (interfaces, network
namespaces, nft tables, cgroups, mounts in /run) are checked where the machine is ours alone, that
is under CI: elsewhere another run beside this one may be at work. What another worker of the same
run has claimed (`lanes.py`) is that one's to check. A service that several tests
share changes on its own (networks in store, its own restart); it is a resident, and whoever shares
it checks it.
"""

import contextlib
import gc
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import pytest

from microvmd.node.cgroup import find_hierarchies
from tests import lanes

CHECKED_MARKERS = {"root", "vm", "journey", "faults", "browser"}
# The kernel takes namespaces and veth pairs down behind our back; more than this is a leak.
SETTLE_SECONDS = 10.0
EXEC_SECONDS = 1.0
SETTLE_STEP = 0.05
# Descriptors of these kinds are never kept by a library on purpose.
OWNED_DESCRIPTORS = ("net:[", "/dev/net/tun", "anon_inode:[pidfd]", "/memfd:", "/dev/kvm")
OUR_NAME = "microvmd"
PLAIN_SOURCE = "microvmd-plain"


class Resident(Protocol):
    """Outlives single tests, whose fixture looks for what they left in it."""

    def owns(self, interface: str) -> bool: ...

    def lasting(self) -> set[int]:
        """Pids of its own."""
        ...

    @property
    def group(self) -> str:
        """Of its control groups."""
        ...


@pytest.fixture(scope="session")
def residents() -> list[Resident]:
    """Fixtures of a wider scope put what they share in here, and take it out at the end."""
    return []


@dataclass(frozen=True, slots=True)
class Traces:
    """What one moment shows of us. Each entry names the thing well enough to go and look."""

    processes: frozenset[str]
    threads: frozenset[str]
    descriptors: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]
    namespaces: frozenset[str]
    tables: frozenset[str]
    cgroups: frozenset[str]
    half_written: frozenset[str]
    plain: frozenset[str]

    @classmethod
    def now(
        cls, directory: Path, *, whole_machine: bool, residents: Sequence[Resident] = ()
    ) -> "Traces":
        nothing: frozenset[str] = frozenset()
        others = lanes.Others.now()
        return cls(
            processes=_processes(directory, residents),
            threads=frozenset(
                f"{thread.name} ({thread.ident})"
                for thread in threading.enumerate()
                if not thread.daemon
            ),
            descriptors=_descriptors(directory),
            mounts=_mounts(directory, whole_machine),
            interfaces=others.spare(_interfaces(residents)) if whole_machine else nothing,
            namespaces=others.spare(_names(Path("/run/netns"))) if whole_machine else nothing,
            tables=others.spare(_tables()) if whole_machine else nothing,
            cgroups=others.spare(_cgroups(residents)) if whole_machine else nothing,
            half_written=_half_written(directory),
            plain=others.spare(_plain(directory, whole_machine)),
        )

    def since(self, before: "Traces") -> dict[str, list[str]]:
        """What is here now and was not then, by kind; empty when all is clean."""
        found = {}
        for kind in fields(self):
            new = getattr(self, kind.name) - getattr(before, kind.name)
            if new:
                found[kind.name] = sorted(new)
        return found


def _names(directory: Path) -> frozenset[str]:
    return frozenset(os.listdir(directory)) if directory.is_dir() else frozenset()


def _interfaces(residents: Sequence[Resident]) -> frozenset[str]:
    names = _names(Path("/sys/class/net"))
    return frozenset(name for name in names if not any(one.owns(name) for one in residents))


def _processes(directory: Path, residents: Sequence[Resident]) -> frozenset[str]:
    """Descendants of this process, and whatever names the test's directory on its command line."""
    parents: dict[int, int] = {}
    lines: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            line = _command_line(entry)
        except OSError:
            continue
        if stat[0] in "ZX":
            line = f"(zombie) {line}"
        parents[int(entry.name)] = int(stat[1])
        lines[int(entry.name)] = line
    ours = {os.getpid()}
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in ours} - ours
        ours |= children
        grown = bool(children)
    found = ours - {os.getpid()}
    found |= {pid for pid, line in lines.items() if os.fspath(directory) in line}
    found -= {os.getpid(), *(pid for one in residents for pid in one.lasting())}
    return frozenset(f"{pid} {_named(pid, lines[pid])[:200]}" for pid in found if pid in lines)


def _named(pid: int, line: str) -> str:
    """Linux tells no command line between the moment at which ``Popen`` returns, when the new
    program has taken the place of the old, and the one at which it has its arguments."""
    limit = time.monotonic() + EXEC_SECONDS
    while not line and time.monotonic() < limit:
        time.sleep(0.001)
        with contextlib.suppress(OSError):
            line = _command_line(Path(f"/proc/{pid}"))
    return line


def _command_line(entry: Path) -> str:
    return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _descriptors(directory: Path) -> frozenset[str]:
    gc.collect()
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith(OWNED_DESCRIPTORS) or target.startswith(f"{directory}/"):
            found.add(f"{entry} -> {target}")
    return frozenset(found)


def _mounts(directory: Path, whole_machine: bool) -> frozenset[str]:
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    ours = (f"{directory}/", *([f"/run/{OUR_NAME}/"] if whole_machine else []))
    return frozenset(point for point in points if point.startswith(ours))


def _tables() -> frozenset[str]:
    listing = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    return frozenset(listing.stdout.splitlines())


def _cgroups(residents: Sequence[Resident]) -> frozenset[str]:
    theirs = {one.group for one in residents}
    return frozenset(
        os.fspath(path)
        for hierarchy in find_hierarchies()
        for path in hierarchy.root.glob(f"*{OUR_NAME}*/*/")
        if path.parent.name not in theirs
    )


def _half_written(directory: Path) -> frozenset[str]:
    """Entries of ``tmp/`` of every service root below the test's directory."""
    return frozenset(
        os.fspath(path)
        for store in directory.rglob("state.db")
        for path in (store.parent / "tmp").glob("*")
    )


def _plain(directory: Path, whole_machine: bool) -> frozenset[str]:
    """Plain files of encrypted snapshots, in the directories in memory that we mount for them."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [Path(line.split()[1]) for line in lines if line.startswith(f"{PLAIN_SOURCE} ")]
    return frozenset(
        os.fspath(path)
        for mount in mounts
        if whole_machine or mount.is_relative_to(directory)
        for path in (mount, *mount.glob("*/*"))
    )


@pytest.fixture(autouse=True, scope="module")
def settled_heap() -> None:
    """What lives when a module of tests begins lives on: collections need not look at it again.

    They took 0.3 s for each look at the descriptors before, two for each test.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks(
    request: pytest.FixtureRequest, tmp_path: Path, residents: list[Resident]
) -> Iterator[None]:
    """Fail a test with real resources that leaves one behind."""
    if not CHECKED_MARKERS & {marker.name for marker in request.node.iter_markers()}:
        yield
        return
    whole_machine = bool(os.environ.get("MICROVMD_CI"))
    before = Traces.now(tmp_path, whole_machine=whole_machine, residents=residents)
    yield
    limit = time.monotonic() + SETTLE_SECONDS
    while left := Traces.now(tmp_path, whole_machine=whole_machine, residents=residents).since(
        before
    ):
        if time.monotonic() > limit:
            pytest.fail(f"left behind: {left}")
        time.sleep(SETTLE_STEP)
