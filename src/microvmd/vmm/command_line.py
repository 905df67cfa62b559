"""QEMU's command line for a machine: pure, from a spec and the numbers of open files.

Files reach QEMU as inherited descriptors (`-add-fd`, `/dev/fdset/N`), so that a jail needs to show
none of them, except the memory file, the kernel and the initramfs, which QEMU opens by path only.

Why these options (each was found by experiment on QEMU 10.0):
- `pic=off`: with the legacy interrupt controller most boots fail under TCG.
- `acpi=on`: Debian's kernel finds virtio-mmio devices through ACPI only.
- `rtc=on`: under KVM the machine has no clock of this kind unless asked for, and Linux (6.12,
  mc146818_does_rtc_work) looks for it for a whole second of each boot, 20,000 port accesses.
- `guest_announce=off`: a restored guest need not tell a switch where it is; QEMU does, once, and
  does not wake it. (`announce-rounds=0` would save that too, but then QEMU crashes when it ends.)
- `suppress-vmdesc=on` and `send-configuration=off`, at every start: the device state written for a
  suspend snapshot has neither part, and a restore refuses a file that differs from its options.
- `readonly=on,rom=off` for clones: the guest's pages are private, and nothing can write to the
  memory file that all clones share. Free-page reporting and balloons would punch holes into it.
- `locking=off` for shared read-only files only: the lock on the overlay, which QEMU takes at
  `cont`, keeps two VMMs from running on one disk.
- `append=on` for the console: a FIFO cannot be truncated.
- `tb-size=256` (MiB): a guest that keeps making new code must not grow the VMM by a gigabyte.
- no kernel for a restore: its memory holds one, and `-no-reboot` lets none be loaded again.
- `merge=off`: same-page merging between tenants is a side channel.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from microvmd.vmm.machine import (
    AGENT_PORT,
    GUEST_MAC,
    Accelerator,
    AcceleratorKind,
    Bind,
    Boot,
    Drive,
    FromImage,
    MachineSpec,
    Start,
)

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
KERNEL_COMMAND_LINE = "console=ttyS0 quiet panic=-1 reboot=t"
DEVICE_FDSET = 1
SERIAL_FDSET = 2
FIRST_DRIVE_FDSET = 10

SEEN_BY_THE_GUEST = ("-machine", "-object", "-global", "-device", "-serial")
"""Options that decide what is in a device state; the other ones are about the host's side."""

MEMORY_TARGET = "/machine/memory"
KERNEL_TARGET = "/machine/kernel"
INITRD_TARGET = "/machine/initrd"


@dataclass(frozen=True, slots=True)
class DriveFiles:
    """Open files of one drive."""

    file: int
    backing: int | None = None


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Descriptors that the VMM inherits under the same numbers."""

    qmp: int
    agent: int
    serial: int
    drives: tuple[DriveFiles, ...]
    tap: int | None = None
    device: int | None = None


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the VMM finds what it opens by path; kernel and initramfs are for a boot only."""

    memory: str
    kernel: str = ""
    initrd: str = ""


def binds(spec: MachineSpec, start: Start) -> tuple[Bind, ...]:
    """What the VMM opens by path, in the order of `Paths`."""
    if not isinstance(start, Boot):
        return (Bind(spec.memory_file, MEMORY_TARGET),)
    return (
        Bind(spec.memory_file, MEMORY_TARGET, writable=True),
        Bind(spec.kernel, KERNEL_TARGET),
        Bind(spec.initrd, INITRD_TARGET),
    )


def command_line(
    qemu: Path, spec: MachineSpec, start: Start, files: OpenFiles, paths: Paths, *, name: str
) -> tuple[str, ...]:
    """All arguments of the VMM that starts `spec` as `start` says."""
    # fmt: off
    return (
        str(qemu),
        "-name", name,
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-no-reboot",
        "-S",
        "-sandbox", SANDBOX,
        "-machine", "microvm,acpi=on,pic=off,rtc=on,suppress-vmdesc=on,memory-backend=mem",
        "-accel", _accelerator(spec),
        "-cpu", spec.accelerator.cpu_model,
        "-smp", str(spec.vcpus),
        "-m", f"{spec.memory_mib}M",
        "-object", _memory(spec, start, paths),
        "-global", "migration.send-configuration=off",
        "-global", "migration.announce-rounds=1",
        *_contents(spec, start, files, paths),
        *_channels(files),
        "-device", "virtio-rng-device",
        *_network(files),
        *_drives(spec, files),
    )
    # fmt: on


def device_set() -> str:
    """Digest of the devices of every clone: a device state fits into no other set."""
    nothing, accelerator = Path("/"), Accelerator(AcceleratorKind.TCG, "any", 0)
    drives = (
        Drive("rootfs", nothing, read_only=True),
        Drive("disk", nothing, backing=nothing),
    )
    spec = MachineSpec(1, 1, nothing, nothing, nothing, accelerator, drives)
    files = OpenFiles(0, 0, 0, (DriveFiles(0), DriveFiles(0, 0)), tap=0, device=0)
    start = FromImage(nothing)
    line = command_line(nothing, spec, start, files, Paths(MEMORY_TARGET), name="any")
    seen = [f"{option} {value}" for option, value in pairwise(line) if option in SEEN_BY_THE_GUEST]
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()[:12]


def _accelerator(spec: MachineSpec) -> str:
    return "kvm" if spec.accelerator.kind is AcceleratorKind.KVM else "tcg,thread=multi,tb-size=256"


def _memory(spec: MachineSpec, start: Start, paths: Paths) -> str:
    sharing = "share=on" if isinstance(start, Boot) else "share=off,readonly=on,rom=off"
    return (
        f"memory-backend-file,id=mem,size={spec.memory_mib}M,mem-path={_escape(paths.memory)},"
        f"{sharing},reserve=off,merge=off,dump=off"
    )


def _kernel_command_line(spec: MachineSpec) -> str:
    words = [KERNEL_COMMAND_LINE]
    if spec.accelerator.kind is AcceleratorKind.TCG and spec.accelerator.tsc_khz:
        # Without it the kernel measures the rate against an emulated timer, loses that race on a
        # busy node and hangs. Told that it is reliable it keeps time by it; else by counting ticks,
        # of which an idle guest then needs 250 a second, and those that come late are lost: on a
        # busy node it lost ten seconds in each thousand.
        words += [f"tsc_early_khz={spec.accelerator.tsc_khz}", "tsc=reliable"]
    if spec.command_line:
        words.append(spec.command_line)
    return " ".join(words)


def _contents(spec: MachineSpec, start: Start, files: OpenFiles, paths: Paths) -> tuple[str, ...]:
    # fmt: off
    if isinstance(start, Boot):
        return (
            "-kernel", paths.kernel,
            "-initrd", paths.initrd,
            "-append", _kernel_command_line(spec),
        )
    assert files.device is not None
    return (
        "-incoming", "defer",
        "-add-fd", f"fd={files.device},set={DEVICE_FDSET}",
    )
    # fmt: on


def _channels(files: OpenFiles) -> tuple[str, ...]:
    """Console, QMP, guest agent. Both sockets listen, so that a restarted node connects again."""
    # fmt: off
    return (
        "-add-fd", f"fd={files.serial},set={SERIAL_FDSET}",
        "-chardev", f"file,id=console,path=/dev/fdset/{SERIAL_FDSET},append=on",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,fd={files.qmp},server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", f"socket,id=agent,fd={files.agent},server=on,wait=off",
        "-device", "virtio-serial-device",
        "-device", f"virtserialport,id=agent-port,chardev=agent,name={AGENT_PORT}",
    )
    # fmt: on


def _network(files: OpenFiles) -> tuple[str, ...]:
    """Without a tap the card is there all the same, connected to nothing."""
    backend = "hubport,id=net,hubid=0" if files.tap is None else f"tap,id=net,fd={files.tap}"
    card = f"virtio-net-device,netdev=net,mac={GUEST_MAC},guest_announce=off"
    return ("-netdev", backend, "-device", card)


def _drives(spec: MachineSpec, files: OpenFiles) -> tuple[str, ...]:
    arguments: list[str] = []
    fdset = FIRST_DRIVE_FDSET
    for number, (drive, opened) in enumerate(zip(spec.drives, files.drives, strict=True)):
        arguments += _drive(drive, opened, number, fdset)
        fdset += 2
    return tuple(arguments)


def _drive(drive: Drive, opened: DriveFiles, number: int, fdset: int) -> list[str]:
    node = f"drive{number}"
    serial = _escape(drive.name)
    # fmt: off
    device = ["-device", f"virtio-blk-device,drive={node},serial={serial}"]
    file = ["-add-fd", f"fd={opened.file},set={fdset}"]
    if drive.read_only:
        return [
            *file,
            "-blockdev", f"driver=file,node-name={node}-file,filename=/dev/fdset/{fdset},"
                         "read-only=on,auto-read-only=off,locking=off",
            "-blockdev", f"driver=raw,node-name={node},file={node}-file,read-only=on",
            *device,
        ]
    written = f"driver=file,node-name={node}-file,filename=/dev/fdset/{fdset},discard=unmap"
    if opened.backing is None:
        return [
            *file,
            "-blockdev", written,
            "-blockdev", f"driver=raw,node-name={node},file={node}-file,discard=unmap",
            *device,
        ]
    return [
        *file,
        "-add-fd", f"fd={opened.backing},set={fdset + 1}",
        "-blockdev", f"driver=file,node-name={node}-base-file,filename=/dev/fdset/{fdset + 1},"
                     "read-only=on,auto-read-only=off,locking=off",
        "-blockdev", f"driver=raw,node-name={node}-base,file={node}-base-file,read-only=on",
        "-blockdev", written,
        "-blockdev", f"driver=qcow2,node-name={node},file={node}-file,backing={node}-base,"
                     "discard=unmap",
        *device,
    ]
    # fmt: on


def _escape(value: str) -> str:
    """QEMU splits option values at single commas."""
    return value.replace(",", ",,")
