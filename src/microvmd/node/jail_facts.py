"""What the kernel shows of a live VMM, against what a jail is to be.

`flaws` believes nothing that the jailer or we say: it reads `/proc` of the process. Tests use it,
and ``microvmd doctor --security`` for every VMM that runs.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from microvmd.vmm.choice import surroundings_of
from microvmd.vmm.machine import Surroundings

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts")
FILTERS = 2
"""Ours, and the VMM's own; libseccomp may put on more than one."""
ROOT = {"dev", "lib", "lib64", "machine", "proc", "usr"}
"""The VMM, its libraries, what it reads below `proc`, and what is bound."""
DEVICES = {"null", "urandom", "kvm"}
DESCRIPTORS = (
    "socket:[",
    "pipe:[",
    "anon_inode:[",
    "anon_inode:kvm-",  # of its machine and virtual processors
    "/memfd:",  # code of the translator (TCG)
    "/dev/net/tun",
    "/dev/null",
    "/dev/kvm",
)
"""Beside files and pipes with a name (logs): what a descriptor may lead to."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process; members of `/proc/PID/status` by their names."""

    pid: int

    @property
    def place(self) -> Path:
        return Path("/proc") / str(self.pid)

    def status(self) -> dict[str, str]:
        lines = (self.place / "status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def mounts(self) -> dict[str, set[str]]:
        """Options of every mount that the process sees, by its place."""
        lines = (self.place / "mountinfo").read_text().splitlines()
        return {line.split()[4]: set(line.split()[5].split(",")) for line in lines}

    def limits(self) -> dict[str, str]:
        """Hard limits, in the kernel's words."""
        lines = (self.place / "limits").read_text().splitlines()[1:]
        return {line[:26].strip(): line[47:68].strip() for line in lines}

    def interfaces(self) -> list[str]:
        lines = (self.place / "net/dev").read_text().splitlines()[2:]
        return [line.split(":")[0].strip() for line in lines]

    def descriptors(self) -> Iterator[tuple[str, int]]:
        """Where each open file leads, and its mode."""
        for entry in (self.place / "fd").iterdir():
            try:
                yield os.readlink(entry), entry.stat().st_mode
            except FileNotFoundError:
                continue


def flaws(pid: int) -> list[str]:
    """What this VMM has that a jail must not have. Raises OSError when it ends meanwhile."""
    facts = ProcessFacts(pid)
    surroundings = surroundings_of(os.readlink(facts.place / "exe"))
    return [
        *_rights(facts.status()),
        *_isolation(facts, surroundings),
        *_root(facts, surroundings),
        *_descriptors(facts),
    ]


def _rights(status: dict[str, str]) -> Iterator[str]:
    users = {*status["Uid"].split(), *status["Gid"].split()}
    if len(users) != 1 or users & {"0", "65534"}:
        yield f"it runs as users and groups {', '.join(sorted(users))}, not as one of its own"
    if status["Groups"]:
        yield f"it is in the groups {status['Groups']}"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status[kind], 16):
            yield f"it has capabilities ({kind} {status[kind]})"
    if status["NoNewPrivs"] != "1":
        yield "it may gain rights by executing a program (no_new_privs is not set)"
    if status["Seccomp"] != "2" or int(status.get("Seccomp_filters", FILTERS)) < FILTERS:
        filters = status.get("Seccomp_filters", "?")
        yield f"{filters} of at least {FILTERS} filters of system calls are in force"


def _isolation(facts: ProcessFacts, surroundings: Surroundings) -> Iterator[str]:
    for namespace in NAMESPACES:
        own = os.readlink(f"/proc/self/ns/{namespace}")
        if os.readlink(facts.place / "ns" / namespace) == own:
            yield f"it shares the {namespace} namespace of the node"
    if len(facts.status()["NSpid"].split()) < 2:
        yield "it sees the processes of the node"
    if surroundings.empty_network and facts.interfaces() != ["lo"]:
        yield f"it has network interfaces: {', '.join(facts.interfaces())}"
    # The directory itself is always of the user; what is in it is root's when it cannot be dumped.
    if (facts.place / "environ").stat().st_uid != 0:
        yield "its memory can be dumped"
    limits = facts.limits()
    for name in ("Max core file size", "Max locked memory"):
        if limits[name] != "0":
            yield f"{name} is {limits[name]}, not 0"
    groups = (facts.place / "cgroup").read_text().splitlines()
    if all(line.rpartition(":")[2] == "/" for line in groups):
        yield "no control group limits it"


def _root(facts: ProcessFacts, surroundings: Surroundings) -> Iterator[str]:
    written = {*surroundings.written, surroundings.scratch}
    known = {"/", "/dev", *surroundings.files, surroundings.scratch}
    for where, options in facts.mounts().items():
        if where not in known:
            yield f"something is mounted at {where}"
        elif "nosuid" not in options or ("rw" in options and where not in written):
            yield f"the mount at {where} has the options {','.join(sorted(options))}"
    root = facts.place / "root"
    if strange := set(os.listdir(root)) - ROOT:
        yield f"its root holds {', '.join(sorted(strange))}"
    elif strange := set(os.listdir(root / "dev")) - DEVICES - _device_names(surroundings):
        yield f"its /dev holds {', '.join(sorted(strange))}"


def _device_names(surroundings: Surroundings) -> set[str]:
    return {name.split("/")[0] for name in surroundings.devices}


def _descriptors(facts: ProcessFacts) -> Iterator[str]:
    for leads_to, mode in facts.descriptors():
        plain = stat.S_ISREG(mode) or stat.S_ISFIFO(mode)
        if not plain and not leads_to.startswith(DESCRIPTORS):
            yield f"it has {leads_to} open"
