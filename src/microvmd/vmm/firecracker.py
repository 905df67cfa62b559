"""Firecracker as a `Vmm`: which program, in what surroundings, and how a machine of it starts.

It needs KVM. Paths of its snapshots are relative to the root of its jail, where every MicroVM has
the same names, so a snapshot that knows its drives and sockets by path restores in any jail. It
opens its tap by name, so it runs in the network namespace of the MicroVM; the system calls that it
may make leave it no sockets there but those of the UNIX kind.
"""

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from microvmd.vmm.console import BoundedLog
from microvmd.vmm.files import Logs, make_memory_file, open_logs
from microvmd.vmm.firecracker_api import (
    FirecrackerApi,
    FirecrackerFailed,
    Paths,
    boot_requests,
    device_set,
    identifier,
    load_request,
)
from microvmd.vmm.firecracker_machine import MEMORY, SCRATCH, FirecrackerMachine, scratch_of
from microvmd.vmm.firecracker_metrics import FailureWatch
from microvmd.vmm.lease import Lease, held_up
from microvmd.vmm.machine import (
    Accelerator,
    Bind,
    Boot,
    DiskFormat,
    FromSuspend,
    Launcher,
    MachineFailed,
    MachineFiles,
    MachineSpec,
    Start,
    Surroundings,
    Tap,
    VmmCommand,
    VmmName,
)
from microvmd.vmm.process import (
    Process,
    ProcessFailed,
    ProcessIdentity,
    ProcessStuck,
    owned,
    run,
    spawn,
)

PLACE = Path("/usr/bin/firecracker")
KERNEL, INITRD = "machine/kernel", "machine/initrd"
DEVICE, LOG, METRICS = "machine/device", "machine/log", "machine/metrics"
VSOCK, API = f"{SCRATCH}/vsock.sock", f"{SCRATCH}/api.sock"
MOST_DRIVES = 16
TUN = ("net/tun", (10, 200))
OLDEST, NEWEST = (1, 12), (1, 16)
"""What we ask is in the API of all of these, and each writes device state before memory
(`vmm/firecracker_machine.py`): so their sources say; the tests run with the oldest."""
SILENT = ("1.16.0",)
"""Their guests are not heard after a restore (firecracker#5958)."""
VERSION_LIMIT = 10.0
END_LIMIT = 1.0


class FirecrackerUnfit(Exception):
    """The program is not there, or none that we can use."""


def find(assets: Path) -> Path | None:
    """The program: of our own assets, else of the machine."""
    places = (assets, Path("/usr/bin"), Path("/usr/local/bin"))
    found = (place / "firecracker" for place in places)
    return next((path for path in found if os.access(path, os.X_OK)), None)


async def installed_version(program: Path) -> str:
    """For example `1.12.1`. Raises FirecrackerUnfit for one that we cannot use."""
    try:
        shown = (await run([os.fspath(program), "--version"], timeout=VERSION_LIMIT)).text
    except (ProcessFailed, OSError) as error:
        raise FirecrackerUnfit(f"{program} does not run: {error}") from error
    found = re.match(r"Firecracker v((\d+)\.(\d+)\.\d+)", shown)
    if found is None:
        raise FirecrackerUnfit(f"{program} is no release of Firecracker: {shown[:100]!r}")
    if not OLDEST <= (int(found[2]), int(found[3])) <= NEWEST:
        wanted = " to ".join(f"{major}.{minor}" for major, minor in (OLDEST, NEWEST))
        raise FirecrackerUnfit(
            f"{program} is Firecracker {found[1]}; supported are {wanted}: install one of these, "
            "or set vmm.kind to qemu"
        )
    if found[1] in SILENT:
        raise FirecrackerUnfit(
            f"{program} is Firecracker {found[1]}, whose guests are not heard after a restore: "
            "install the next patch release"
        )
    return found[1]


def digest(program: Path) -> str:
    """SHA-256 of the program. Blocks."""
    with program.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LinkingLauncher:
    """Starts Firecracker as we are, without a jail, among links to its files: for tests."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def locate(self, bind: Bind) -> str:
        return bind.target.lstrip("/")

    def launch(self, command: VmmCommand) -> contextlib.AbstractAsyncContextManager[Process]:
        if command.tap is not None:
            raise ValueError("a network card needs a jail")
        assert command.scratch is not None
        command.scratch.source.mkdir(exist_ok=True)
        for bind in (*command.binds, command.scratch):
            link = self._directory / bind.target.lstrip("/")
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(bind.source)
        for stale in command.scratch.source.iterdir():
            stale.unlink()
        console = command.output if command.console is None else command.console
        return spawn(
            command.argv,
            stdout=console,
            stderr=command.output,
            fds=command.fds,
            cwd=self._directory,
        )


@dataclass(frozen=True, slots=True)
class FirecrackerVmm:
    """A `Vmm`. `in_jail` is off for tests, which start the program where it is."""

    program: Path
    version: str
    cpu_template: str = ""
    in_jail: bool = True
    name: VmmName = VmmName.FIRECRACKER
    disk_format: DiskFormat = DiskFormat.COPY
    stops_clocks: bool = False
    """It sets the clock when it loads, and KVM lets it go on from there."""

    @property
    def devices(self) -> str:
        return device_set()

    def cpu_model(self, accelerator: Accelerator) -> str:
        return self.cpu_template or accelerator.cpu_model

    @property
    def surroundings(self) -> Surroundings:
        drives = tuple(_drive(number) for number in range(MOST_DRIVES))
        files = (MEMORY, KERNEL, INITRD, DEVICE, LOG, METRICS, *drives)
        return Surroundings(
            program=self.program,
            place=PLACE,
            files=tuple(f"/{file}" for file in files),
            scratch=f"/{SCRATCH}",
            devices=dict([TUN]),
            jailer_options=("--vmm", "firecracker"),
            written=tuple(f"/{file}" for file in (MEMORY, LOG, METRICS, *drives)),
            empty_network=False,
        )

    @contextlib.asynccontextmanager
    async def prepare(
        self,
        spec: MachineSpec,
        files: MachineFiles,
        launcher: Launcher,
        start: Start,
        *,
        tap: Tap | None = None,
    ) -> AsyncIterator["EmptyFirecracker"]:
        if isinstance(start, Boot):
            make_memory_file(spec)
        async with contextlib.AsyncExitStack() as stack:
            logs = _open_logs(files, stack.enter_context(contextlib.ExitStack()))
            lease = None
            if isinstance(start, FromSuspend) and start.diff is not None:
                lease = stack.enter_context(_held_up(_own_disk(spec)))
            with contextlib.ExitStack() as opened:
                command = self._command(spec, files, start, tap, logs, opened)
                process = await stack.enter_async_context(launcher.launch(command))
            api = await self._connected(process, logs, stack)
            card = None if tap is None else tap.name
            yield EmptyFirecracker(self, process, api, logs, Filling(start, lease, card))

    @contextlib.asynccontextmanager
    async def adopt(
        self, spec: MachineSpec, files: MachineFiles, identity: ProcessIdentity
    ) -> AsyncIterator[FirecrackerMachine]:
        async with contextlib.AsyncExitStack() as stack:
            process = await stack.enter_async_context(owned(Process.adopt(identity)))
            logs = _open_logs(files, stack.enter_context(contextlib.ExitStack()))
            try:
                api = await self._connected(process, logs, stack)
            except asyncio.CancelledError:
                process.detach()  # who stops waiting does not mean to end the guest
                raise
            yield FirecrackerMachine(spec, process, api, logs, self.version)

    async def _connected(
        self, process: Process, logs: Logs, stack: contextlib.AsyncExitStack
    ) -> FirecrackerApi:
        try:
            api = await FirecrackerApi.of(process, scratch_of(process.pid) / Path(API).name)
        except FirecrackerFailed as error:
            with contextlib.suppress(ProcessStuck, TimeoutError):
                async with asyncio.timeout(END_LIMIT):
                    await process.wait()
            raise MachineFailed(
                str(error), vmm_log=logs.vmm.tail(), serial_log=logs.serial.tail()
            ) from error
        stack.push_async_callback(api.close)
        stack.push_async_callback(_end, process)
        return api

    def _command(
        self,
        spec: MachineSpec,
        files: MachineFiles,
        start: Start,
        tap: Tap | None,
        logs: Logs,
        opened: contextlib.ExitStack,
    ) -> VmmCommand:
        output, output_reader = opened.enter_context(logs.vmm.ends())
        console, console_reader = opened.enter_context(logs.serial.ends())
        assert logs.counts is not None
        counts = opened.enter_context(logs.counts.ends())
        program = PLACE if self.in_jail else self.program
        # fmt: off
        argv = (
            os.fspath(program),
            "--id", identifier(files.directory.name),
            "--api-sock", API,
            "--log-path", LOG,
            "--metrics-path", METRICS,
            "--level", "Info",
        )
        # fmt: on
        return VmmCommand(
            argv=argv,
            # Its own read ends: a node that dies is no broken pipe.
            fds=(output_reader, console_reader, *counts),
            binds=(
                Bind(logs.vmm.fifo, f"/{LOG}", writable=True),
                Bind(logs.counts.fifo, f"/{METRICS}", writable=True),
                *_binds(spec, start),
            ),
            output=output,
            console=console,
            scratch=Bind(files.directory / "scratch", f"/{SCRATCH}"),
            tap=tap,
        )


@dataclass(frozen=True, slots=True)
class Filling:
    """What a VMM was started for: `lease` holds it up at its disk, `card` is its tap."""

    start: Start
    lease: Lease | None
    card: str | None


class EmptyFirecracker:
    """An `EmptyMachine` under Firecracker. Made by `FirecrackerVmm.prepare`."""

    def __init__(
        self,
        vmm: FirecrackerVmm,
        process: Process,
        api: FirecrackerApi,
        logs: Logs,
        filling: Filling,
    ) -> None:
        self._vmm = vmm
        self._process = process
        self._api = api
        self._logs = logs
        self._filling = filling
        self._filled = False

    @property
    def identity(self) -> ProcessIdentity:
        return self._process.identity

    async def ended(self) -> None:
        await self._process.wait()

    async def load(self, spec: MachineSpec, files: MachineFiles) -> None:
        await self._restored(spec)

    @contextlib.asynccontextmanager
    async def fill(
        self, spec: MachineSpec, files: MachineFiles
    ) -> AsyncIterator[FirecrackerMachine]:
        self._logs.moved(files)
        if isinstance(self._filling.start, Boot):
            machine = self._machine(spec)
            cpu = self._vmm.cpu_template
            await machine.boot(boot_requests(spec, _paths(spec), self._filling.card, cpu))
        else:
            machine = await self._restored(spec)
        yield machine

    def _machine(self, spec: MachineSpec) -> FirecrackerMachine:
        return FirecrackerMachine(spec, self._process, self._api, self._logs, self._vmm.version)

    async def _restored(self, spec: MachineSpec) -> FirecrackerMachine:
        machine, filling = self._machine(spec), self._filling
        if not self._filled:
            assert not isinstance(filling.start, Boot)
            request = load_request(_paths(spec), filling.card)
            await machine.restore(filling.start, request, filling.lease)
            self._filled = True
        return machine


def _open_logs(files: MachineFiles, stack: contextlib.ExitStack) -> Logs:
    counts = stack.enter_context(BoundedLog(files.counts_log, FailureWatch()))
    return replace(open_logs(files, stack), counts=counts)


async def _end(process: Process) -> None:
    """Kill it unless it was detached: as the first of its pid namespace it never hears TERM."""
    if not process.detached and not process.exited:
        await process.kill()


@contextlib.contextmanager
def _held_up(disk: Path) -> Iterator[Lease]:
    with contextlib.ExitStack() as stack:
        try:
            lease = stack.enter_context(held_up(disk))
        except OSError as error:
            raise MachineFailed(
                f"{disk} cannot be held back for a resume: another program has it open, or its "
                f"file system knows no leases ({error.strerror})"
            ) from error
        yield lease


def _drive(number: int) -> str:
    return f"machine/drive{number}"


def _own_disk(spec: MachineSpec) -> Path:
    """The one that nobody else has open."""
    return next(drive.path for drive in spec.drives if not drive.read_only)


def _paths(spec: MachineSpec) -> Paths:
    drives = tuple(_drive(number) for number in range(len(spec.drives)))
    return Paths(MEMORY, drives, VSOCK, KERNEL, INITRD, DEVICE)


def _binds(spec: MachineSpec, start: Start) -> Sequence[Bind]:
    boot = isinstance(start, Boot)
    shown = [Bind(spec.memory_file, f"/{MEMORY}", writable=boot)]
    if isinstance(start, Boot):
        shown += [Bind(spec.kernel, f"/{KERNEL}"), Bind(spec.initrd, f"/{INITRD}")]
    else:
        shown.append(Bind(start.device, f"/{DEVICE}"))
    for number, drive in enumerate(spec.drives):
        shown.append(Bind(drive.path, f"/{_drive(number)}", writable=not drive.read_only))
    return shown
