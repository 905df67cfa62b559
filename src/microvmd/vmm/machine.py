"""What a machine is, whichever VMM runs it: its parts, how it starts, what can be asked of it.

`vmm/qemu.py` and `vmm/firecracker.py` implement `Vmm` and `Machine`. The device set and its order
never depend on how a machine is started, because they are part of every snapshot: serial port, a
channel for the guest agent, random numbers, network card, drives.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from microvmd.vmm.agent_door import AgentDoor
from microvmd.vmm.process import Exit, Process, ProcessIdentity

AGENT_PORT = "microvmd.agent"
GUEST_MAC = "02:00:00:00:00:02"
AUTO = "auto"


class VmmName(StrEnum):
    QEMU = "qemu"
    FIRECRACKER = "firecracker"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator decided. `kind` is auto, qemu or firecracker."""

    kind: str = AUTO
    firecracker_sha256: str = ""
    """Of the only program that is taken for Firecracker; empty: any supported version."""
    cpu_template: str = ""


class AcceleratorKind(StrEnum):
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """How guest code is run and why so. `tsc_khz` is the rate of the node's time stamp counter."""

    kind: AcceleratorKind
    reason: str
    tsc_khz: int

    @property
    def cpu_model(self) -> str:
        """`max` under TCG offers x86-64-v3, which current distributions ask for."""
        return "host" if self.kind is AcceleratorKind.KVM else "max"


@dataclass(frozen=True, slots=True)
class Drive:
    """A block device. The guest finds it by `name` (its serial number) and by its position."""

    name: str
    path: Path
    read_only: bool = False
    backing: Path | None = None
    """Raw file under a qcow2 overlay; a drive without it is raw itself."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """Everything that decides what the guest sees; equal for all restores of one snapshot."""

    memory_mib: int
    vcpus: int
    memory_file: Path
    """Made by a boot; shared copy-on-write and never written by machines restored from it."""
    kernel: Path
    initrd: Path
    """Both are read by a boot only: a restored memory holds what it needs of them."""
    accelerator: Accelerator
    drives: tuple[Drive, ...] = ()
    command_line: str = ""
    """Appended to the kernel command line of a boot."""


@dataclass(frozen=True, slots=True)
class MachineFiles:
    """Sockets and logs of one machine; the directory outlives our process, so does the VMM."""

    directory: Path

    @property
    def control(self) -> Path:
        """Where the VMM takes commands, unless its own directory has that."""
        return self.directory / "control.sock"

    @property
    def agent(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def serial_log(self) -> Path:
        return self.directory / "serial.log"

    @property
    def vmm_log(self) -> Path:
        return self.directory / "vmm.log"

    @property
    def counts_log(self) -> Path:
        """What the VMM counts, under Firecracker."""
        return self.directory / "counts.log"


@dataclass(frozen=True, slots=True)
class Boot:
    """Start the kernel. The memory file is created and holds the guest's memory."""


@dataclass(frozen=True, slots=True)
class FromImage:
    """Restore an image snapshot: its device state over its shared memory file."""

    device: Path


@dataclass(frozen=True, slots=True)
class FromSuspend:
    """Restore a suspend snapshot. Without `diff`, `device` holds the whole memory as well."""

    device: Path
    diff: Path | None


Start = Boot | FromImage | FromSuspend


class SuspendMethod(StrEnum):
    DIFF = "diff"
    """Device state and the pages that differ from the image's memory file."""
    FULL = "full"
    """One file with device state and all memory, for VMM versions that DIFF was not tested on."""


@dataclass(frozen=True, slots=True)
class SuspendStats:
    """What a suspend wrote. `diff_sha256` is the digest of the diff file, None when FULL."""

    method: SuspendMethod
    device_bytes: int
    diff_bytes: int
    diff_sha256: str | None
    frozen_seconds: float
    """From the vCPU pause until all files were written and synced."""


class MachineFailed(Exception):
    """The VMM did not start, refused a command or ended. Carries the ends of its logs."""

    def __init__(self, what: str, *, vmm_log: str = "", serial_log: str = "") -> None:
        self.what = what
        self.vmm_log = vmm_log
        self.serial_log = serial_log
        parts = [what]
        if vmm_log:
            parts.append(f"VMM said: {vmm_log}")
        if serial_log:
            parts.append(f"guest console ends: {serial_log}")
        super().__init__("; ".join(parts))


class Status(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    """vCPUs stand still: just restored, or a suspend was under way."""


class EndReason(StrEnum):
    """Why a VMM ended."""

    GUEST_SHUTDOWN = "guest-shutdown"
    GUEST_RESET = "guest-reset"
    """The guest rebooted, which ends a machine; a kernel panic shows as this too."""
    GUEST_PANIC = "guest-panic"
    ASKED = "asked"
    """`kill`."""
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class End:
    """End of a VMM."""

    reason: EndReason
    exit: Exit


@dataclass(frozen=True, slots=True)
class Bind:
    """A file that the VMM has to open by path; a jail shows it read-only as `target`.

    What is `writable`, or not for everybody to read, is the VMM's own from then on.
    """

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Tap:
    """The node's end of a guest's network card: the interface `name` in a network namespace."""

    namespace: Path
    name: str
    open: Callable[[], int]
    """A descriptor of it, which the caller closes."""
    hand_over: Callable[[int], None]
    """Let this user id open it by its name, and keep no descriptor."""


@dataclass(frozen=True, slots=True)
class VmmCommand:
    """A VMM to start. `fds` keep their numbers; `output` takes what it prints."""

    argv: tuple[str, ...]
    fds: tuple[int, ...]
    binds: tuple[Bind, ...]
    output: int
    console: int | None = None
    """Takes its standard output instead, where that is the guest's serial port."""
    scratch: Bind | None = None
    """A small directory of its own, for sockets and device state; a jail does not use `source`."""
    tap: Tap | None = None
    """What it opens by name: it runs in that network namespace then."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a jail has to hold for one VMM, beside the libraries that the program names."""

    program: Path
    place: Path
    """Of the program, in the jail."""
    firmware: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    """Where `Bind`s may go."""
    scratch: str = ""
    devices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Beside those of every jail: names below /dev with their numbers."""
    jailer_options: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    """Which of `files` it may be given to write to."""
    empty_network: bool = True
    """Off for one that runs in the network namespace of its MicroVM."""


class DiskFormat(StrEnum):
    """What a MicroVM's own disk is."""

    OVERLAY = "overlay"
    """A qcow2 file over the image's disk."""
    COPY = "copy"
    """A raw file, at first a copy of the image's disk."""


class Launcher(Protocol):
    """Starts the VMM process: directly (`PlainLauncher`) or in a jail (`node/jail.py`)."""

    def locate(self, bind: Bind) -> str:
        """The path under which the VMM will see the file of `bind`."""
        ...

    def launch(self, command: VmmCommand) -> AbstractAsyncContextManager[Process]:
        """Leaving the context kills the process unless it was detached."""
        ...


class Machine(Protocol):
    """One running VMM. After `launch` its vCPUs stand still until `cont`."""

    @property
    def identity(self) -> ProcessIdentity: ...

    @property
    def vmm_version(self) -> str: ...

    @property
    def agent(self) -> AgentDoor:
        """The way to the guest agent."""
        ...

    def failed(self, what: str) -> MachineFailed:
        """An error with the evidence that the logs hold."""
        ...

    async def cont(self) -> None:
        """Let the vCPUs run. Also takes back a suspend that the caller cannot complete."""
        ...

    async def snapshot_image(self, device: Path) -> None:
        """Write the device state; with the memory file and drives it is the image snapshot.

        The machine stays paused: kill it. Rolled back with `cont` when it fails.
        """
        ...

    async def suspend(self, device: Path, diff: Path) -> SuspendStats:
        """Write and sync all that a restore needs; the drives are synced too.

        The machine stays paused: kill it. Rolled back with `cont` when it fails or is cancelled.
        """
        ...

    async def status(self) -> Status: ...

    async def wait(self) -> End:
        """Wait for the end of the VMM."""
        ...

    async def kill(self) -> End: ...

    def detach(self) -> None:
        """Leave the VMM running when the context ends; `adopt` takes it over later."""
        ...


class EmptyMachine(Protocol):
    """A VMM that is up and takes commands, and holds no guest yet.

    All that it opens it has got already: files of the machine, drives and network card.
    """

    @property
    def identity(self) -> ProcessIdentity: ...

    async def ended(self) -> None:
        """Wait until the VMM has ended, which it does not do by itself."""
        ...

    async def load(self, spec: MachineSpec, files: MachineFiles) -> None:
        """Restore the guest already, so that `fill` only hands it over; never for a `Boot`.

        Raises MachineFailed.
        """
        ...

    def fill(self, spec: MachineSpec, files: MachineFiles) -> AbstractAsyncContextManager[Machine]:
        """Make a guest of it, as `prepare` was told; once. The vCPUs stand still until `cont`.

        ``spec`` and ``files`` are those of `prepare`, under the names that they have by now: the
        directory may have been renamed. Raises MachineFailed.
        """
        ...


class Vmm(Protocol):
    """One program that runs machines."""

    @property
    def name(self) -> VmmName: ...

    @property
    def version(self) -> str:
        """As its machines tell it; a snapshot restores under the same only."""
        ...

    @property
    def devices(self) -> str:
        """Digest of the devices of every clone."""
        ...

    @property
    def disk_format(self) -> DiskFormat: ...

    @property
    def stops_clocks(self) -> bool:
        """Whether the monotonic clock of a restored guest stands still until `cont`."""
        ...

    def cpu_model(self, accelerator: Accelerator) -> str:
        """What a guest sees of the node's processor."""
        ...

    @property
    def surroundings(self) -> Surroundings: ...

    def prepare(
        self,
        spec: MachineSpec,
        files: MachineFiles,
        launcher: Launcher,
        start: Start,
        *,
        tap: Tap | None = None,
    ) -> AbstractAsyncContextManager[EmptyMachine]:
        """Start a VMM that will be filled by `start`, which may be much later.

        Leaving the context, in whatever task, kills the VMM unless its machine was detached. Raises
        MachineFailed.
        """
        ...

    def adopt(
        self, spec: MachineSpec, files: MachineFiles, identity: ProcessIdentity
    ) -> AbstractAsyncContextManager[Machine]:
        """Take over a VMM that an earlier run of ours left. Raises ProcessGone, MachineFailed.

        Ask for `status`: PAUSED means that a suspend was under way.
        """
        ...


@asynccontextmanager
async def launched(
    vmm: Vmm,
    spec: MachineSpec,
    files: MachineFiles,
    launcher: Launcher,
    start: Start,
    *,
    tap: Tap | None = None,
) -> AsyncIterator[Machine]:
    """`prepare`, and `fill` at once."""
    async with (
        vmm.prepare(spec, files, launcher, start, tap=tap) as empty,
        empty.fill(spec, files) as machine,
    ):
        yield machine
