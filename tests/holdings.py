"""What one service of a test holds, as the kernel tells it: never by the service's own word."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from microvmd.node.cgroup import find_hierarchies, names
from tests import lanes

UIDS = 1000
WAITING = "waiting-"
"""Begin of the names of what has a VMM that waits for a run."""
KEEPER = "microvmd.service.keeper"


@dataclass(frozen=True)
class Place:
    """What no two services on one machine may share; a directory in /run claims it."""

    run: Path
    number: int
    lock: IO[str]
    """Open until the end: what the claim names is ours (`lanes.py`)."""

    @classmethod
    def claim(cls) -> "Place":
        for number in range(16):
            run = Path("/run") / f"mvt{chr(ord('a') + number)}"
            with contextlib.suppress(FileExistsError):
                run.mkdir(mode=0o755)
                lock = lanes.hold(f"place-{number}", run.name, str(run))
                assert lock is not None, f"{run} was free, and another process claims it"
                return cls(run, number, lock)
        raise AssertionError("all /run/mvt? are taken: earlier test runs were killed, look there")

    @property
    def prefix(self) -> str:
        return self.run.name

    @property
    def subnet(self) -> str:
        return f"10.{236 + self.number}.0.0/18"

    @property
    def first_uid(self) -> int:
        return 3_000_000 + self.number * UIDS


@dataclass
class Holdings:
    """Processes, control groups, networks and mounts of the service in this directory."""

    directory: Path
    place: Place

    @property
    def root(self) -> Path:
        return self.directory / "root"

    def vmms(self) -> dict[str, int]:
        """Pid of each VMM by the name of its cgroup: of a MicroVM, a build, or one that waits."""
        found = {}
        owners = self.owners()
        for name in self.cgroups():
            for hierarchy in find_hierarchies():
                procs = hierarchy.root / self.group / name / "cgroup.procs"
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    for pid in procs.read_text().split():
                        found[owners.get(name, name)] = int(pid)
        return found

    def owners(self) -> dict[str, str]:
        """MicroVM by the name of its cgroup, where that had it before it was the MicroVM's."""
        found = {}
        for path in (self.root / "microvms").glob("*/vmm.json"):
            with contextlib.suppress(FileNotFoundError):
                found[str(json.loads(path.read_text())["jail"])] = path.parent.name
        return found

    @property
    def group(self) -> str:
        return f"microvmd-{self.place.prefix}"

    def cgroups(self) -> set[str]:
        return names(find_hierarchies(), self.group)

    def processes(self) -> dict[int, str]:
        """Command line of everything that the service started, now or in an earlier run.

        VMMs run as users of our range; everything else inherits the environment, or is a child of
        what did (the commands of a build get a clean one).
        """
        found: dict[int, str] = {}
        children: dict[int, list[int]] = {}
        lines: dict[int, str] = {}
        mark = f"MICROVMD_ROOT={self.root}".encode()
        uids = range(self.place.first_uid, self.place.first_uid + UIDS)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                pid, status = int(entry.name), entry / "stat"
                parent = int(status.read_text(errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(pid)
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                lines[pid] = line.decode(errors="replace").strip()
                ours = status.stat().st_uid in uids
                if ours or mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[pid] = lines[pid]
        new = list(found)
        while new:
            new = [pid for parent in new for pid in children.get(parent, ()) if pid not in found]
            found |= {pid: lines.get(pid, "?") for pid in new}
        return found

    def node(self) -> dict[int, str]:
        """The node, and the keeper that starts it again."""
        found = self.processes().items()
        return {
            pid: line for pid, line in found if "microvmd.service.node" in line or KEEPER in line
        }

    def haproxy(self) -> dict[int, str]:
        """Master and workers."""
        return {pid: line for pid, line in self.processes().items() if line.startswith("haproxy")}

    def local_aws(self) -> dict[int, str]:
        found = self.processes().items()
        return {pid: line for pid, line in found if "microvmd.service.local_aws" in line}

    def networks(self) -> set[str]:
        return {path.name for path in (self.place.run / "netns").glob("*")}

    @property
    def plain(self) -> Path:
        """Where plain files of encrypted snapshots are, while a VMM uses them."""
        return self.place.run / "plain"

    def beyond(self, states: Mapping[str, str], lasting: Set[int], pool: int) -> list[str]:
        """What is there beyond the records, while the service runs and nothing is being changed.

        ``states`` are those of all MicroVMs, ``lasting`` the processes of the service itself, and
        ``pool`` how many networks it keeps ready.
        """
        alive = {name for name, state in states.items() if state != "TERMINATED"}
        running = {name for name in alive if states[name] == "RUNNING"}
        vmms, owners = self.vmms(), self.owners()
        groups = {owners.get(name, name) for name in self.cgroups()}
        waiting = {name for name in groups if name.startswith(WAITING)}
        found = [f"cgroup {name}" for name in groups - running - waiting]
        expected = lasting | set(vmms.values())
        found += [
            f"process {pid}: {line[:300]}"
            for pid, line in self.processes().items()
            if pid not in expected
        ]
        found += [f"no VMM of {name}" for name in running - vmms.keys()]
        held = len(running) + len(waiting)
        if len(self.networks()) != pool + held:
            found.append(f"{len(self.networks())} networks, not {pool} + {held}")
        half = {path.name for path in (self.root / "tmp").glob("*")}
        found += [f"half-written {name}" for name in half - waiting]
        found += [f"no directory of {name}" for name in waiting - half]
        files = {path.name for path in (self.root / "microvms").glob("*")}
        found += [f"files of {name}" for name in files ^ alive]
        owned = {self.plain / "microvms" / name for name in running}
        places = (*self.plain.glob("microvms/*"), *self.plain.glob("builds/*"))
        found += [f"plain files {path}" for path in places if path not in owned]
        if self.plain.exists() and not running:
            found.append(f"plain directory {self.plain}")
        return found

    def left(self, *, stopped: bool) -> list[str]:
        """What is there of a service that has ended, beside its files. ``stopped``: not killed."""
        found = [f"process {pid}: {line[:300]}" for pid, line in self.processes().items()]
        found += [f"cgroup {name}" for name in self.cgroups()]
        groups = [hierarchy.root / self.group for hierarchy in find_hierarchies()]
        found += [f"cgroup {group}" for group in groups if stopped and group.exists()]
        found += [f"network {name}" for name in self.networks()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        places = (f"{self.place.run}/", f"{self.directory}/")
        found += [line for line in mounts if line.split()[4].startswith(places)]
        shown = json.loads(_output("ip", "-json", "link"))
        prefix = self.place.prefix
        found += [f"interface {link['ifname']}" for link in shown if self.owns(link["ifname"])]
        tables = _output("nft", "list", "tables").splitlines()
        found += [table for table in tables if table.endswith(f"_{prefix}")]
        routes = _output("ip", "route", "show", "type", "unreachable")
        found += [line for line in routes.splitlines() if self.place.subnet in line]
        return found

    def owns(self, interface: str) -> bool:
        number = interface.removeprefix(self.place.prefix)
        return number != interface and number.isdigit()

    def remove_by_force(self) -> None:
        """What the service should have cleared itself: other tests must not suffer from it."""
        for path in (self.place.run / "netns").glob("*"):
            subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)
        subprocess.run(["umount", "--lazy", str(self.plain)], check=False, capture_output=True)
        for hierarchy in find_hierarchies():
            group = hierarchy.root / self.group
            for path in (*group.glob("*/"), group):
                with contextlib.suppress(OSError):
                    path.rmdir()
        prefix = self.place.prefix
        subprocess.run(
            ["nft", "delete", "table", "inet", f"microvmd_{prefix}"],
            check=False,
            capture_output=True,
        )
        subprocess.run(
            ["ip", "route", "flush", "type", "unreachable", "exact", self.place.subnet],
            check=False,
            capture_output=True,
        )
        shutil.rmtree(self.place.run, ignore_errors=True)
        self.place.lock.close()


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
