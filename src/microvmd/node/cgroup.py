"""Memory, process, processor and disk limits of one VMM, by control groups.

Version 2 is used where it has the controllers; on a hybrid machine (a container, an old set-up) the
version 1 hierarchy that has one is used for it. Groups live at the top of each hierarchy, under our
own name, not in the group of the service: a stop of the service must not end the VMMs.
"""

import contextlib
import errno
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

CONTROLLERS = ("memory", "pids")
"""Without these nothing runs: they keep a VMM from the machine's last memory and process."""
FAIR = ("cpu", "io")
"""These share out what never runs out; where a kernel lacks one, its default is fair too."""
VERSION_1_NAMES = {"blkio": "io"}
CPU_PERIOD_US = 100_000
DEFAULT_WEIGHT = 100
SHARES_OF_DEFAULT = 1024
NO_LIMIT = 1 << 60
"""Version 1 writes the absence of a limit as the largest number of pages."""
MOUNTS = Path("/proc/self/mounts")


class CgroupUnavailable(Exception):
    """No hierarchy offers a controller that limits need."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``cpus`` bounds processor time, in processors; ``weight`` is its share, and that of the disk,
    where others want it too (100 is the kernel's default); ``file_bytes`` bounds each file."""

    memory_bytes: int
    pids: int
    cpus: float | None = None
    weight: int = DEFAULT_WEIGHT
    file_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy and the controllers that we use of it."""

    root: Path
    version: int
    controllers: tuple[str, ...]


def find_hierarchies(mounts: Path = MOUNTS) -> tuple[Hierarchy, ...]:
    """The hierarchies that together have all CONTROLLERS, and what of FAIR there is.

    Raises CgroupUnavailable.
    """
    found: list[Hierarchy] = []
    missing = {*CONTROLLERS, *FAIR}
    lines = [line.split() for line in mounts.read_text().splitlines()]
    for _, where, kind, options, *_ in sorted(lines, key=lambda line: line[2] != "cgroup2"):
        root = Path(where)
        if kind == "cgroup2":
            offered = set((root / "cgroup.controllers").read_text().split())
        elif kind == "cgroup":
            offered = {VERSION_1_NAMES.get(name, name) for name in options.split(",")}
        else:
            continue
        if offered & missing:
            used = tuple(sorted(offered & missing))
            found.append(Hierarchy(root, 2 if kind == "cgroup2" else 1, used))
            missing -= offered
    if lacking := missing.intersection(CONTROLLERS):
        raise CgroupUnavailable(f"no cgroup hierarchy offers {', '.join(sorted(lacking))}")
    return tuple(found)


class Cgroup:
    """The group of one VMM in all hierarchies. It exists on disk; this is a handle."""

    def __init__(self, hierarchies: tuple[Hierarchy, ...], parent: str, name: str) -> None:
        self._directories = tuple(
            (hierarchy, hierarchy.root / parent / name) for hierarchy in hierarchies
        )

    def create(self, limits: Limits) -> None:
        """Make the group, or set the limits of one that is left from before."""
        for hierarchy, directory in self._directories:
            directory.mkdir(parents=True, exist_ok=True)
            if hierarchy.version == 2:
                _delegate(hierarchy, directory)
            for name, value in _settings(hierarchy, limits):
                (directory / name).write_text(value)
            for name, value in _together(hierarchy):
                _offer(directory.parent / name, value)
            for name, value in _fair(hierarchy, limits):
                _offer(directory / name, value)

    @property
    def procs_files(self) -> tuple[Path, ...]:
        """A process joins by writing `0` to each."""
        return tuple(directory / "cgroup.procs" for _, directory in self._directories)

    def oom_kills(self) -> int:
        """How many processes the kernel killed because of the memory limit."""
        for hierarchy, directory in self._directories:
            if "memory" in hierarchy.controllers:
                name = "memory.events" if hierarchy.version == 2 else "memory.oom_control"
                with contextlib.suppress(FileNotFoundError):
                    return _counter((directory / name).read_text(), "oom_kill")
        return 0

    def private_bytes(self) -> int:
        """Memory that its processes share with nobody and that no file backs; 0 when it is gone."""
        for hierarchy, directory in self._directories:
            if "memory" in hierarchy.controllers:
                name = "anon" if hierarchy.version == 2 else "total_rss"
                with contextlib.suppress(OSError):
                    return _counter((directory / "memory.stat").read_text(), name)
        return 0

    def kill(self, limit: float) -> bool:
        """SIGKILL all processes of the group, and wait at most `limit` seconds for their end."""
        ends = select.poll()
        with contextlib.ExitStack() as opened:
            waiting = set()
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    pidfd = os.pidfd_open(pid)
                    opened.callback(os.close, pidfd)
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    ends.register(pidfd, select.POLLIN)
                    waiting.add(pidfd)
            deadline = time.monotonic() + limit
            while waiting and (left := deadline - time.monotonic()) > 0:
                for pidfd, _ in ends.poll(left * 1000):
                    ends.unregister(pidfd)
                    waiting.discard(pidfd)
            return not waiting

    def pids(self) -> set[int]:
        """Processes in the group now, and in groups that they made within it."""
        pids: set[int] = set()
        for _, directory in self._directories:
            for group in (directory, *_within(directory)):
                with contextlib.suppress(FileNotFoundError):
                    procs = (group / "cgroup.procs").read_text()
                    pids |= {int(line) for line in procs.split()}
        return pids

    def remove(self) -> None:
        """Remove the group. One that still has processes (a detached VMM) stays as it is."""
        for _, directory in self._directories:
            try:
                for group in _within(directory):
                    group.rmdir()
                if not (directory / "cgroup.procs").read_text():
                    directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("cgroup.busy", directory=os.fspath(directory), error=str(error))


def _within(directory: Path) -> list[Path]:
    """Groups below a group, the deepest first: a container engine in it makes its own."""
    found = [Path(place) for place, _, _ in os.walk(directory, topdown=False)]
    return found[:-1]


def names(hierarchies: tuple[Hierarchy, ...], parent: str) -> set[str]:
    """All groups below `parent`."""
    found: set[str] = set()
    for hierarchy in hierarchies:
        with contextlib.suppress(FileNotFoundError):
            found |= {entry.name for entry in (hierarchy.root / parent).iterdir() if entry.is_dir()}
    return found


def remove_empty(hierarchies: tuple[Hierarchy, ...], parent: str) -> None:
    """Remove `parent` itself where no group is left in it."""
    for hierarchy in hierarchies:
        try:
            (hierarchy.root / parent).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise


def headroom(hierarchies: tuple[Hierarchy, ...], parent: str) -> tuple[int | None, int | None]:
    """The lowest memory limit of the groups from `parent` up, and the least that one leaves.

    In bytes; None where nothing limits. Page cache that can be dropped counts as free.
    """
    limits, left = [], []
    for hierarchy in hierarchies:
        if "memory" not in hierarchy.controllers:
            continue
        directory = hierarchy.root / parent
        for group in (directory, *directory.parents):
            if group.is_relative_to(hierarchy.root) and (found := _bounded(hierarchy, group)):
                limits.append(found[0])
                left.append(max(0, found[0] - found[1]))
    return min(limits, default=None), min(left, default=None)


def _bounded(hierarchy: Hierarchy, group: Path) -> tuple[int, int] | None:
    """Limit and use of a group in bytes, if it has a limit."""
    two = hierarchy.version == 2
    limit, use = (
        ("memory.max", "memory.current")
        if two
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    try:
        allowed = (group / limit).read_text().strip()
        used = int((group / use).read_text())
        stat = (group / "memory.stat").read_text()
    except FileNotFoundError:
        return None
    if allowed == "max" or int(allowed) >= NO_LIMIT:
        return None
    return int(allowed), used - _counter(stat, "inactive_file" if two else "total_inactive_file")


def _settings(hierarchy: Hierarchy, limits: Limits) -> list[tuple[str, str]]:
    settings: list[tuple[str, str]] = []
    if "memory" in hierarchy.controllers:
        if hierarchy.version == 2:
            # Group: half a VMM is worth nothing.
            settings += [("memory.max", str(limits.memory_bytes)), ("memory.oom.group", "1")]
        else:
            settings.append(("memory.limit_in_bytes", str(limits.memory_bytes)))
    if "pids" in hierarchy.controllers:
        settings.append(("pids.max", str(limits.pids)))
    return settings


def _together(hierarchy: Hierarchy) -> list[tuple[str, str]]:
    """All VMMs against the rest of the machine: as much as a busy process on each processor.

    Without it they would weigh as one process together, and starve where the host is busy.
    """
    if "cpu" not in hierarchy.controllers:
        return []
    cpus = os.cpu_count() or 1
    if hierarchy.version == 2:
        return [("cpu.weight", str(min(10_000, DEFAULT_WEIGHT * cpus)))]
    return [("cpu.shares", str(SHARES_OF_DEFAULT * cpus))]


def _fair(hierarchy: Hierarchy, limits: Limits) -> list[tuple[str, str]]:
    """Files that a kernel may lack: it has them only with the scheduler that they are for."""
    settings: list[tuple[str, str]] = []
    two = hierarchy.version == 2
    if "cpu" in hierarchy.controllers:
        if two:
            settings.append(("cpu.weight", str(limits.weight)))
        else:
            shares = max(2, limits.weight * SHARES_OF_DEFAULT // DEFAULT_WEIGHT)
            settings.append(("cpu.shares", str(shares)))
        if limits.cpus is not None:
            quota = int(limits.cpus * CPU_PERIOD_US)
            if two:
                settings.append(("cpu.max", f"{quota} {CPU_PERIOD_US}"))
            else:
                settings.append(("cpu.cfs_period_us", str(CPU_PERIOD_US)))
                settings.append(("cpu.cfs_quota_us", str(quota)))
    if "io" in hierarchy.controllers:
        # BFQ ends at 1000, as version 1 did, which began at 10.
        weight = str(min(1000, max(10, limits.weight)))
        if two:
            settings += [("io.weight", f"default {limits.weight}"), ("io.bfq.weight", weight)]
        else:
            settings += [("blkio.weight", weight), ("blkio.bfq.weight", weight)]
    return settings


def _offer(path: Path, value: str) -> None:
    if path.exists():
        try:
            path.write_text(value)
        except OSError as error:
            log.warning("cgroup.refused", path=os.fspath(path), value=value, error=str(error))


def _delegate(hierarchy: Hierarchy, directory: Path) -> None:
    """Version 2 offers a controller in a group only if all groups above pass it on."""
    above = [parent for parent in directory.parents if parent.is_relative_to(hierarchy.root)]
    for parent in reversed(above):
        for controllers in (CONTROLLERS, FAIR):
            passed = [f"+{name}" for name in hierarchy.controllers if name in controllers]
            try:
                if passed:
                    (parent / "cgroup.subtree_control").write_text(" ".join(passed))
            except OSError as error:
                said = f"{parent} does not pass on {' '.join(passed)}: {error}"
                if controllers is CONTROLLERS:
                    raise CgroupUnavailable(said) from error
                log.warning("cgroup.not_passed_on", error=said)


def _counter(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
