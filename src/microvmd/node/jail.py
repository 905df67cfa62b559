"""Jails: a VMM is attacked code, so each runs as a user of its own that can reach nothing.

A jail is a user id nobody else has, new namespaces (mounts, processes, IPC, host name, a network
without interfaces), a root with the VMM and this VM's memory file (for a boot the kernel and
initramfs too), limits of memory, processes, processors, disks and files, no capabilities, and a
list of system calls that it may make. `microvmd-jailer` builds it; a VMM adds a filter of its own.
Everything else that QEMU uses, it inherits as open files. Firecracker opens its files by path, and
its tap by name, in the network namespace of the MicroVM (`Surroundings`, `VmmCommand`).

There is no user namespace. The VMM's user id is nobody's on the host either, and it has no
capability in any namespace to begin with; in a user namespace of its own it would be born with all
of them over that, which opens more of the kernel to it than it closes.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from microvmd.model.size import cpu_weight
from microvmd.node import jail_root
from microvmd.node.capacity import available_bytes
from microvmd.node.cgroup import (
    Cgroup,
    Hierarchy,
    Limits,
    find_hierarchies,
    names,
    remove_empty,
)
from microvmd.vmm.machine import AcceleratorKind, Bind, MachineSpec, Surroundings, VmmCommand
from microvmd.vmm.process import (
    Exit,
    Process,
    ProcessGone,
    ProcessIdentity,
    owned,
    spawn,
)
from microvmd.vmm.qemu import surroundings
from microvmd.vmm.shield import shielded

log = structlog.get_logger(__name__)

REPORT_LIMIT = 30.0
"""Seconds for the jailer to report the pid."""
SWEEP_LIMIT = 10.0
DEVICES = {"null": (1, 3), "urandom": (1, 9)}
KVM_DEVICE = (10, 232)
OVERHEAD_BYTES = 512 << 20
"""Memory of a VMM beside its guest's: itself, translated code under TCG (256 MiB), page cache."""
PIDS_BASE = 64
"""Threads of a VMM beside its vCPUs; block I/O makes up to 64."""
VMM_CPUS = 0.5
"""Processors that a VMM may use beside its vCPUs, for I/O and for itself."""
OPEN_FILES = 256
ENFORCE = "enforce"
FILE_SPARE = 1 << 30
"""What an overlay or a snapshot may be larger than what it holds: tables, headers."""
OOM_SCORE_ADJ = 500
"""When the whole machine is out of memory, a VMM goes before anything of the host."""
OUT_OF_MEMORY = "The MicroVM was ended because it ran out of memory."


class OutOfMemory(Exception):
    """The kernel killed the VMM for its memory; whatever failed, failed for that."""

    def __init__(self) -> None:
        super().__init__(OUT_OF_MEMORY)


class JailFailed(Exception):
    """The jailer ended before it reported a VMM."""


class JailsExhausted(Exception):
    """Every user id of the range is taken."""


@dataclass(frozen=True, slots=True)
class JailSettings:
    """`group` names our cgroups; two nodes on one machine need two, and two ranges of user ids."""

    jailer: Path
    cache: Path
    group: str = "microvmd"
    first_uid: int = 700_000
    slots: int = 4096
    surroundings: Surroundings = field(default_factory=surroundings)
    """Of the VMM that is jailed."""
    seccomp: str = ENFORCE
    """`enforce`, `log` or `off` (`jailer/src/seccomp.rs`)."""


def limits_for(
    memory_mib: int, vcpus: int, *, files: int = 0, file_bytes: int | None = None
) -> Limits:
    """Limits of the VMM of a guest with this memory; `files` of its own take so many bytes more."""
    return Limits(
        memory_bytes=(memory_mib << 20) + OVERHEAD_BYTES + files,
        pids=PIDS_BASE + vcpus,
        cpus=vcpus + VMM_CPUS,
        weight=cpu_weight(memory_mib),
        file_bytes=file_bytes,
    )


def limits_of(spec: MachineSpec, *, files: int = 0) -> Limits:
    """Limits of the VMM of this machine, whose drives exist already."""
    disks = [(drive.backing or drive.path) for drive in spec.drives if not drive.read_only]
    largest = max([spec.memory_mib << 20, *(disk.stat().st_size for disk in disks)])
    # A qcow2 file needs some 1/8000 more than what is written into it, and never gives it back.
    bound = largest + largest // 64 + FILE_SPARE
    return limits_for(spec.memory_mib, spec.vcpus, files=files, file_bytes=bound)


class Jails:
    """All jails of this node. Make it with `Jails.open`, `close` it at the end."""

    def __init__(self, settings: JailSettings, root: Path, tree: tuple[Hierarchy, ...]) -> None:
        self._settings = settings
        self._root = root
        self._tree = tree
        self._taken: set[int] = set()
        self._left: set[int] = set()
        """User ids of VMMs that an earlier run left and nobody has adopted yet."""
        self._given: dict[str, str] = {}

    @classmethod
    async def open(cls, settings: JailSettings) -> "Jails":
        root = await jail_root.prepare(settings.cache, settings.surroundings)
        return cls(settings, root, await asyncio.to_thread(find_hierarchies))

    async def around(self, surroundings: Surroundings) -> "Jails":
        """Jails of another VMM on the same node: user ids and groups are shared, so that `close`
        and `sweep` of one are for both."""
        root = await jail_root.prepare(self._settings.cache, surroundings)
        other = Jails(replace(self._settings, surroundings=surroundings), root, self._tree)
        other._taken, other._left, other._given = self._taken, self._left, self._given
        return other

    def close(self) -> None:
        """Remove our group of groups, unless VMMs go on in it."""
        remove_empty(self._tree, self._settings.group)

    def give(self, jail: "Jail", microvm_id: str) -> None:
        """Note whose jail it is: one that was made before anybody knew has another name."""
        self._given[jail.name] = microvm_id

    def owner_of(self, name: str) -> str:
        """The MicroVM that the jail of this name was given to, else the name itself."""
        return self._given.get(name, name)

    def available_mib(self) -> int:
        """Memory that VMMs could take at this moment."""
        return available_bytes(self._tree, self._settings.group)[1] >> 20

    @contextlib.asynccontextmanager
    async def jail(
        self, name: str, limits: Limits, accelerator: AcceleratorKind
    ) -> AsyncIterator["Jail"]:
        """A jail for one VMM. The user id is free again when the context ends, so end it only
        after the VMM did or was detached on the way out of this process."""
        with self._slot(None) as uid:
            group = Cgroup(self._tree, self._settings.group, name)
            group.create(limits)
            try:
                jail = Jail(self._settings, self._root, name, uid, group, accelerator)
                jail.file_bytes = limits.file_bytes
                yield jail
            finally:
                self._given.pop(name, None)
                group.remove()

    @contextlib.asynccontextmanager
    async def adopt(self, name: str, identity: ProcessIdentity) -> AsyncIterator["Jail"]:
        """The jail of a VMM that an earlier run of ours left behind. Raises ProcessGone."""
        uid = _uid_of(identity)
        self._left.discard(uid)
        with self._slot(uid):
            group = Cgroup(self._tree, self._settings.group, name)
            try:
                yield Jail(self._settings, self._root, name, uid, group, None)
            finally:
                self._given.pop(name, None)
                group.remove()

    def sweep(self, keep: set[str]) -> None:
        """End every VMM that no name in `keep` owns, and remove its cgroup.

        This finds also one whose node died before it wrote down that there is a VMM. The user ids
        of those that are kept are given to nobody else meanwhile.
        """
        for name in names(self._tree, self._settings.group):
            group = Cgroup(self._tree, self._settings.group, name)
            if name in keep:
                self._left |= {uid for pid in group.pids() if (uid := _uid(pid)) is not None}
                continue
            log.info("jail.sweep", name=name, pids=sorted(group.pids()))
            if not group.kill(SWEEP_LIMIT):
                log.error("jail.vmm_survives", name=name)
            group.remove()

    @contextlib.contextmanager
    def _slot(self, wanted: int | None) -> Iterator[int]:
        """Take a user id, or the one that an adopted VMM has."""
        first = self._settings.first_uid
        every = range(first, first + self._settings.slots)
        used = self._taken | self._left
        uid = wanted or next((uid for uid in every if uid not in used), None)
        if uid is None:
            raise JailsExhausted(f"all {len(every)} user ids from {first} on are taken")
        self._taken.add(uid)
        try:
            yield uid
        finally:
            self._taken.discard(uid)


class Jail:
    """One jail; a `Launcher` for the VMM in it."""

    def __init__(
        self,
        settings: JailSettings,
        root: Path,
        name: str,
        uid: int,
        group: Cgroup,
        accelerator: AcceleratorKind | None,
    ) -> None:
        self.name = name
        self.uid = uid
        self._settings = settings
        self._root = root
        self._group = group
        self._accelerator = accelerator
        self.file_bytes: int | None = None

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Whatever fails in here because the VMM ran out of memory, fails as OutOfMemory."""
        try:
            yield
        except Exception as error:
            if self.out_of_memory():
                raise OutOfMemory from error
            raise

    def private_bytes(self) -> int:
        """Memory that the VMM shares with nobody."""
        return self._group.private_bytes()

    def out_of_memory(self) -> bool:
        """Whether the kernel killed the VMM because of its memory limit."""
        return self._group.oom_kills() > 0

    def locate(self, bind: Bind) -> str:
        return bind.target

    @contextlib.asynccontextmanager
    async def launch(self, command: VmmCommand) -> AsyncIterator[Process]:
        """Start the VMM; it is our own child although the jailer made it. Raises JailFailed."""
        for bind in command.binds:
            if bind.writable or not bind.source.stat().st_mode & stat.S_IROTH:
                os.chown(bind.source, self.uid, self.uid)
        if command.tap is not None:
            command.tap.hand_over(self.uid)
        async with contextlib.AsyncExitStack() as stack:
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, reader)
            try:
                ended = await self._run_jailer(command, writer)
            finally:
                # Also when we were cancelled: from here on the stack ends a VMM that was started.
                pid = _reported(reader)
                if pid is not None:
                    _first_to_go(pid)
                    process = await stack.enter_async_context(owned(Process.child(pid)))
            if pid is None:
                raise JailFailed(f"the jailer was {ended} and reported no VMM")
            yield process

    async def _run_jailer(self, command: VmmCommand, writer: int) -> Exit:
        try:
            argv = self._jailer_argv(command, writer)
            fds = (*command.fds, writer)
            console = command.output if command.console is None else command.console
            starting = spawn(argv, stdout=console, stderr=command.output, fds=fds)
        except BaseException:
            os.close(writer)
            raise
        async with starting as jailer:
            os.close(writer)
            # Not cut short: a jailer that dies before its report leaves a child that nobody knows.
            return await shielded(jailer.wait(), limit=REPORT_LIMIT)

    def _jailer_argv(self, command: VmmCommand, writer: int) -> list[str]:
        user = str(self.uid)
        argv = [os.fspath(self._settings.jailer), "--root", os.fspath(self._root)]
        argv += ["--uid", user, "--gid", user, "--report-fd", str(writer)]
        argv += ["--rlimit", "core", "0", "--rlimit", "nofile", str(OPEN_FILES)]
        argv += ["--rlimit", "memlock", "0"]
        if self.file_bytes is not None:
            argv += ["--rlimit", "fsize", str(self.file_bytes)]
        for procs in self._group.procs_files:
            argv += ["--cgroup", os.fspath(procs)]
        for bind in command.binds:
            option = "--bind-writable" if bind.writable else "--bind"
            argv += [option, os.fspath(bind.source), bind.target]
        if command.scratch is not None:
            argv += ["--scratch", command.scratch.target]
        if command.tap is not None:
            argv += ["--network", os.fspath(command.tap.namespace)]
        surroundings = self._settings.surroundings
        argv += surroundings.jailer_options
        devices = {**DEVICES, **surroundings.devices}
        if self._accelerator is AcceleratorKind.KVM:
            devices["kvm"] = KVM_DEVICE
        for name, (major, minor) in devices.items():
            argv += ["--device", name, str(major), str(minor)]
        for fd in command.fds:
            argv += ["--keep-fd", str(fd)]
        if self._settings.seccomp != ENFORCE:
            argv += ["--seccomp", self._settings.seccomp]
        return [*argv, "--", *command.argv]


def _first_to_go(pid: int) -> None:
    # It may have ended, but not been reaped: then nobody else has its pid.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE_ADJ))


def _reported(reader: int) -> int | None:
    """The pid that the jailer wrote before it ended, if it did."""
    with contextlib.suppress(BlockingIOError):
        line = os.read(reader, 32)
        if line.endswith(b"\n"):
            return int(line)
    return None


def _uid_of(identity: ProcessIdentity) -> int:
    uid = _uid(identity.pid)
    if uid is None or not identity.alive():
        raise ProcessGone(f"process {identity.pid} has ended")
    return uid


def _uid(pid: int) -> int | None:
    """None when there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:"))
