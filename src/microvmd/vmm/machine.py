"""What a machine is, whichever VMM runs it: its parts, how it starts, what can be asked of it.

`vmm/qemu.py` implements `Machine`. The device set and its order never depend on how a machine is
started, because they are part of every snapshot: serial port, virtio-serial with the port
`microvmd.agent`, random numbers, network card, drives.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from microvmd.vmm.process import Exit, Process, ProcessIdentity

AGENT_PORT = "microvmd.agent"
GUEST_MAC = "02:00:00:00:00:02"


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
    def qmp(self) -> Path:
        return self.directory / "qmp.sock"

    @property
    def agent(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def serial_log(self) -> Path:
        return self.directory / "serial.log"

    @property
    def vmm_log(self) -> Path:
        return self.directory / "vmm.log"


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

    The memory file of a boot is the one that must be `writable`.
    """

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class VmmCommand:
    """A VMM to start. `fds` keep their numbers; `output` takes what it prints."""

    argv: tuple[str, ...]
    fds: tuple[int, ...]
    binds: tuple[Bind, ...]
    output: int


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
