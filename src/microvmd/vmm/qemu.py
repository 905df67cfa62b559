"""Runs a machine under QEMU: `prepare`, `adopt`, and the sequences of a suspend and a restore.

Suspending a clone writes its device state with `xen-save-devices-state`, which exists for Xen but
does what is needed: device state without memory. The memory goes beside it (`vmm/memory.py`). This
was tested on the versions of TESTED only; others save all memory in QEMU's own `mapped-ram` format.
With `live: true` after `stop` the disks end flushed and released, and `cont` takes everything back.

QEMU stops a guest whose write finds no room on the node's disk (`werror=enospc`, its default) and
makes the write again at `cont`: so such a guest waits until there is room, and loses nothing.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from microvmd.vmm import memory
from microvmd.vmm.agent_door import AgentDoor, PortDoor
from microvmd.vmm.causes import ungrouped
from microvmd.vmm.command_line import (
    DEVICE_FDSET,
    INITRD_TARGET,
    KERNEL_TARGET,
    MEMORY_TARGET,
    device_set,
)
from microvmd.vmm.files import (
    MEMORY_LIMIT,
    ROLLBACK_LIMIT,
    Logs,
    make_memory_file,
    open_logs,
    read_diff,
    synced,
    taken_back,
    write_diff,
)
from microvmd.vmm.machine import (
    Accelerator,
    AcceleratorKind,
    Bind,
    Boot,
    DiskFormat,
    End,
    EndReason,
    FromImage,
    FromSuspend,
    Launcher,
    MachineFailed,
    MachineFiles,
    MachineSpec,
    Start,
    Status,
    Surroundings,
    SuspendMethod,
    SuspendStats,
    Tap,
    VmmCommand,
    VmmName,
)
from microvmd.vmm.process import (
    Process,
    ProcessIdentity,
    ProcessStuck,
    owned,
    run,
    spawn,
)
from microvmd.vmm.qemu_command import opened_command
from microvmd.vmm.qmp import Qmp, QmpFailed, port_opened
from microvmd.vmm.shield import shielded

log = structlog.get_logger(__name__)

QEMU = Path("/usr/bin/qemu-system-x86_64")
SMALL_QEMU = Path("/usr/bin/qemu-system-x86_64-microvm")
"""Debian's build of the one machine type that we use. It has no emulation; with a quarter of the
program and of its libraries it starts sooner, and offers a guest less to attack."""
FIRMWARE = ("bios-microvm.bin", "pvh.bin")
TESTED = ("10.0.",)
"""Versions whose device state and private pages were tested to make a whole."""
SAVE_FDSET = 100
STATE_ROOM = 1 << 20
"""Bytes that must be free for device state, of which there are some 100 KiB."""
VERSION_LIMIT = 10.0
ROOM_POLL = 1.0
"""Seconds between two tries of a write that found no room: nobody is told when there is some."""
TOLD_EVERY = 60.0
STOPPED_BY_A_WRITE = "io-error"
END_REASONS = {
    "guest-shutdown": EndReason.GUEST_SHUTDOWN,
    "guest-reset": EndReason.GUEST_RESET,
    "guest-panic": EndReason.GUEST_PANIC,
}


def program_of(accelerator: Accelerator) -> Path:
    """The binary for machines under ``accelerator``: a snapshot of one restores in the other."""
    small = accelerator.kind is AcceleratorKind.KVM and SMALL_QEMU.exists()
    return SMALL_QEMU if small else QEMU


async def installed_version(qemu: Path = QEMU) -> str:
    """The version as a machine of this binary will name it: number and package."""
    shown = await run([os.fspath(qemu), "--version"], timeout=VERSION_LIMIT)
    return shown.text.splitlines()[0].removeprefix("QEMU emulator version ").strip()


@dataclass(frozen=True, slots=True)
class QemuVmm:
    """A `Vmm`."""

    version: str
    program: Path = QEMU
    name: VmmName = VmmName.QEMU
    disk_format: DiskFormat = DiskFormat.OVERLAY
    stops_clocks: bool = True

    @property
    def devices(self) -> str:
        return device_set()

    def cpu_model(self, accelerator: Accelerator) -> str:
        return accelerator.cpu_model

    @property
    def surroundings(self) -> Surroundings:
        return surroundings(self.program)

    def prepare(
        self,
        spec: MachineSpec,
        files: MachineFiles,
        launcher: Launcher,
        start: Start,
        *,
        tap: Tap | None = None,
    ) -> contextlib.AbstractAsyncContextManager["EmptyQemu"]:
        return prepare(spec, files, launcher, start, tap=tap, qemu=self.program)

    def adopt(
        self, spec: MachineSpec, files: MachineFiles, identity: ProcessIdentity
    ) -> contextlib.AbstractAsyncContextManager["QemuMachine"]:
        return adopt(spec, files, identity)


def surroundings(program: Path = QEMU) -> Surroundings:
    return Surroundings(
        program=program,
        place=program,
        firmware=FIRMWARE,
        # It reads this to learn whether `reserve=off` works, and does not start without it.
        texts={"/proc/sys/vm/overcommit_memory": "0\n"},
        files=(MEMORY_TARGET, KERNEL_TARGET, INITRD_TARGET),
        written=(MEMORY_TARGET,),
    )


class PlainLauncher:
    """Starts the VMM as we are, without a jail: for tests and the accelerator probe."""

    def locate(self, bind: Bind) -> str:
        return os.fspath(bind.source)

    def launch(self, command: VmmCommand) -> contextlib.AbstractAsyncContextManager[Process]:
        return spawn(command.argv, stdout=command.output, stderr=command.output, fds=command.fds)


class EmptyQemu:
    """An `EmptyMachine` under QEMU. Made by `prepare`."""

    def __init__(self, process: Process, qmp: Qmp, logs: Logs, start: Start) -> None:
        self._process = process
        self._qmp = qmp
        self._logs = logs
        self._start = start
        self._filled = isinstance(start, Boot)

    @property
    def identity(self) -> ProcessIdentity:
        return self._process.identity

    async def ended(self) -> None:
        await self._process.wait()

    async def load(self, spec: MachineSpec, files: MachineFiles) -> None:
        await self._restored(self._machine(spec, files))

    @contextlib.asynccontextmanager
    async def fill(self, spec: MachineSpec, files: MachineFiles) -> AsyncIterator["QemuMachine"]:
        self._logs.moved(files)
        machine = self._machine(spec, files)
        async with _going(machine):
            await self._restored(machine)
            yield machine

    def _machine(self, spec: MachineSpec, files: MachineFiles) -> "QemuMachine":
        return QemuMachine(spec, self._process, self._qmp, self._logs, PortDoor(files.agent))

    async def _restored(self, machine: "QemuMachine") -> None:
        if not self._filled:
            assert not isinstance(self._start, Boot)
            await machine.restore(self._start)
            self._filled = True


class QemuMachine:
    """A `Machine` under QEMU. Made by `EmptyQemu.fill` and `adopt`."""

    def __init__(
        self, spec: MachineSpec, process: Process, qmp: Qmp, logs: Logs, agent: AgentDoor
    ) -> None:
        self.agent = agent
        self._spec = spec
        self._process = process
        self._qmp = qmp
        self._logs = logs
        self._killed = False
        self._held = False
        """vCPUs stand still because we want it: only the next `cont` lets them run."""

    @property
    def identity(self) -> ProcessIdentity:
        return self._process.identity

    @property
    def vmm_version(self) -> str:
        return self._qmp.version

    def detach(self) -> None:
        self._process.detach()

    async def cont(self) -> None:
        self._held = False
        await self._execute("cont")

    async def cont_until_agent(self) -> None:
        """Let the vCPUs run and wait until the guest opens the agent's port."""
        with self._qmp.events("VSERPORT_CHANGE") as listener:
            await self.cont()
            await port_opened(listener)

    async def status(self) -> Status:
        answer = await self._execute("query-status")
        running = isinstance(answer, dict) and answer.get("running") is True
        return Status.RUNNING if running else Status.PAUSED

    async def keep_going(self) -> None:
        """Let the guest go on after each write that found no room; until the VMM ends."""
        told = -TOLD_EVERY
        with self._qmp.events("BLOCK_IO_ERROR") as errors, contextlib.suppress(QmpFailed):
            async for _ in errors:
                if (now := time.monotonic()) - told >= TOLD_EVERY:
                    log.warning("machine.waits_for_room", pid=self._process.pid)
                    told = now
                await asyncio.sleep(ROOM_POLL)
                errors.clear()
                state = await self._qmp.execute("query-status")
                stopped = isinstance(state, dict) and state.get("status") == STOPPED_BY_A_WRITE
                if stopped and not self._held:
                    await self._qmp.execute("cont")

    async def wait(self) -> End:
        ended = await self._process.wait()
        if self._killed:
            return End(EndReason.ASKED, ended)
        reason = END_REASONS.get(self._qmp.shutdown_reason or "", EndReason.CRASH)
        return End(reason, ended)

    async def kill(self) -> End:
        self._killed = not self._process.exited
        await self._process.kill()
        return await self.wait()

    async def restore(self, start: FromImage | FromSuspend) -> None:
        """Fill a VMM that `prepare` started for it. vCPUs stand still afterwards."""
        full = isinstance(start, FromSuspend) and start.diff is None
        try:
            if isinstance(start, FromSuspend) and start.diff is not None:
                pid, memory_file = self._process.pid, self._spec.memory_file
                mapping = await asyncio.to_thread(memory.find_mapping, pid, memory_file)
                await read_diff(mapping, start.diff)
            await self._qmp.capabilities(
                x_ignore_shared=isinstance(start, FromImage), mapped_ram=full
            )
            limit = MEMORY_LIMIT if full else ROLLBACK_LIMIT
            await self._qmp.migrate("migrate-incoming", f"/dev/fdset/{DEVICE_FDSET}", limit=limit)
        except (QmpFailed, OSError, memory.DiffBroken) as error:
            raise self.failed(f"restore failed: {error}") from error

    async def snapshot_image(self, device: Path) -> None:
        async with self._rolling_back("image snapshot"):
            await self._qmp.execute("stop")
            await self._qmp.capabilities(x_ignore_shared=True)
            await self._save("migrate", device)

    async def suspend(self, device: Path, diff: Path) -> SuspendStats:
        begin = time.monotonic()
        tested = self.vmm_version.startswith(TESTED)
        async with self._rolling_back("suspend"):
            await self._qmp.execute("stop")
            if tested:
                await self._save("xen-save-devices-state", device)
                dumped = await write_diff(self._process.pid, self._spec.memory_file, diff)
            else:
                await self._qmp.capabilities(mapped_ram=True)
                await self._save("migrate", device)
                dumped = None
            device_bytes = await shielded(
                asyncio.to_thread(synced, device, self._written_drives()), limit=MEMORY_LIMIT
            )
        return SuspendStats(
            method=SuspendMethod.DIFF if dumped else SuspendMethod.FULL,
            device_bytes=device_bytes,
            diff_bytes=dumped.file_bytes if dumped else 0,
            diff_sha256=dumped.sha256 if dumped else None,
            frozen_seconds=time.monotonic() - begin,
        )

    def failed(self, what: str) -> MachineFailed:
        return self._logs.failure(what, self._process)

    async def _execute(self, command: str) -> object:
        try:
            return await self._qmp.execute(command)
        except QmpFailed as error:
            raise self.failed(str(error)) from error

    @contextlib.asynccontextmanager
    async def _rolling_back(self, what: str) -> AsyncIterator[None]:
        """Let the vCPUs run again when the body fails or is cancelled."""

        async def go_on() -> None:
            self._held = False
            await self._qmp.execute("cont")

        self._held = True
        async with taken_back(what, self._process, go_on, QmpFailed, self.failed):
            yield

    async def _save(self, command: str, device: Path) -> None:
        """Let QEMU write into a file that its jail cannot see."""
        # QEMU matches the access mode of the descriptor with the one that it would open it with.
        fd = os.open(device, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # QEMU would only say that it failed.
            os.posix_fallocate(fd, 0, STATE_ROOM)
            os.ftruncate(fd, 0)
            path = await self._qmp.add_file(fd, SAVE_FDSET)
        finally:
            os.close(fd)
        try:
            if command == "migrate":
                await self._qmp.migrate(command, path, limit=MEMORY_LIMIT)
            else:
                await self._qmp.execute(
                    command, {"filename": path, "live": True}, limit=ROLLBACK_LIMIT
                )
        finally:
            with contextlib.suppress(QmpFailed):
                await self._qmp.remove_file(SAVE_FDSET)

    def _written_drives(self) -> list[Path]:
        return [drive.path for drive in self._spec.drives if not drive.read_only]


@contextlib.asynccontextmanager
async def prepare(
    spec: MachineSpec,
    files: MachineFiles,
    launcher: Launcher,
    start: Start,
    *,
    tap: Tap | None = None,
    qemu: Path | None = None,
) -> AsyncIterator[EmptyQemu]:
    """See `Vmm.prepare`."""
    if isinstance(start, Boot):
        make_memory_file(spec)
    qemu = qemu or program_of(spec.accelerator)
    async with contextlib.AsyncExitStack() as stack:
        logs = open_logs(files, stack.enter_context(contextlib.ExitStack()))
        with contextlib.ExitStack() as opened:
            command = opened_command(spec, files, launcher, start, tap, qemu, logs, opened)
            process = await stack.enter_async_context(launcher.launch(command))
        qmp = await _connected(files, process, logs, stack)
        yield EmptyQemu(process, qmp, logs, start)


@contextlib.asynccontextmanager
async def launch(
    spec: MachineSpec,
    files: MachineFiles,
    launcher: Launcher,
    start: Start,
    *,
    tap: Tap | None = None,
    qemu: Path | None = None,
) -> AsyncIterator[QemuMachine]:
    """`prepare`, and `fill` at once, with a QEMU of any place."""
    preparing = prepare(spec, files, launcher, start, tap=tap, qemu=qemu)
    async with preparing as empty, empty.fill(spec, files) as machine:
        yield machine


@contextlib.asynccontextmanager
async def adopt(
    spec: MachineSpec, files: MachineFiles, identity: ProcessIdentity
) -> AsyncIterator[QemuMachine]:
    """See `Vmm.adopt`."""
    async with contextlib.AsyncExitStack() as stack:
        process = await stack.enter_async_context(owned(Process.adopt(identity)))
        logs = open_logs(files, stack.enter_context(contextlib.ExitStack()))
        try:
            qmp = await _connected(files, process, logs, stack)
        except asyncio.CancelledError:
            process.detach()  # who stops waiting does not mean to end the guest
            raise
        machine = QemuMachine(spec, process, qmp, logs, PortDoor(files.agent))
        async with _going(machine):
            yield machine


async def _connected(
    files: MachineFiles, process: Process, logs: Logs, stack: contextlib.AsyncExitStack
) -> Qmp:
    qmp = Qmp(files.directory.name)
    try:
        await qmp.connect(files.control)
    except QmpFailed as error:
        with contextlib.suppress(ProcessStuck, TimeoutError):
            async with asyncio.timeout(1):  # a VMM that refused its options is about to end
                await process.wait()
        raise logs.failure(str(error), process) from error
    stack.push_async_callback(qmp.close)
    return qmp


@contextlib.asynccontextmanager
async def _going(machine: QemuMachine) -> AsyncIterator[None]:
    with ungrouped():
        async with asyncio.TaskGroup() as tasks:
            going = tasks.create_task(machine.keep_going())
            try:
                yield
            finally:
                going.cancel()
