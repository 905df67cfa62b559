"""One machine under Firecracker, and the sequences of a suspend and a restore.

Memory. A boot has anonymous memory, of which the image snapshot writes what is not zero; where it
is in two parts (from 3.25 GiB on) Firecracker writes all, and we make holes. A restore maps that
file privately, so a suspend is as under QEMU: device state, and the private pages
(`vmm/memory.py`).

Device state alone. `PUT /snapshot/create` writes the state, syncs it, and then the memory, in each
version that `vmm/firecracker.py` supports. We name a memory file that cannot be made: the request
fails there, and the state is whole. Its diff snapshots are no way for us: with tracking of dirty
pages a running guest pays for it, without it they hold every page that is in the page cache.

Pages before devices. A restore reads guest memory (the rings of the network card), so the pages of
a suspend must be there before it. They are written between the mapping of the memory file and the
open of the MicroVM's disk, at which a lease holds Firecracker up (`vmm/lease.py`).

Sockets lie in a small directory that the VMM may write to; the node reaches it through
/proc/PID/cwd, so nothing of it is on a disk or outlives the VMM.
"""

import asyncio
import contextlib
import os
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from microvmd.vmm import memory
from microvmd.vmm.agent_door import AgentDoor, VsockDoor, pinned
from microvmd.vmm.causes import ungrouped
from microvmd.vmm.files import MEMORY_LIMIT, Logs, read_diff, synced, taken_back, write_diff
from microvmd.vmm.firecracker_api import FirecrackerApi, FirecrackerFailed, Request
from microvmd.vmm.holes import punch_zeros
from microvmd.vmm.lease import Lease, LeaseLost
from microvmd.vmm.machine import (
    End,
    EndReason,
    FromImage,
    FromSuspend,
    MachineFailed,
    MachineSpec,
    Status,
    SuspendMethod,
    SuspendStats,
)
from microvmd.vmm.process import Process, ProcessIdentity
from microvmd.vmm.shield import shielded

log = structlog.get_logger(__name__)

MEMORY = "machine/memory"
SCRATCH = "machine/run"
"""Relative: a jailed VMM is in the root of its jail, one of a test where it was started."""
MAPPED_LIMIT = 30.0
POLL = 0.001
STATE_LIMIT = 16 << 20
"""Bytes of device state; 32 processors take less than one MiB."""
STATE_WRITTEN = "on the memory backing file"
LOAD = "/snapshot/load"
ENDED_WELL = "exit_code=0"


class FirecrackerMachine:
    """A `Machine` under Firecracker. Made by `EmptyFirecracker.fill` and `adopt`."""

    def __init__(
        self, spec: MachineSpec, process: Process, api: FirecrackerApi, logs: Logs, version: str
    ) -> None:
        self._spec = spec
        self._process = process
        self._api = api
        self._logs = logs
        self._killed = False
        self._scratch = scratch_of(process.pid)
        self.vmm_version = version

    @property
    def identity(self) -> ProcessIdentity:
        return self._process.identity

    @property
    def agent(self) -> AgentDoor:
        return VsockDoor(lambda: pinned(self._scratch / "vsock.sock"))

    def detach(self) -> None:
        self._process.detach()

    async def cont(self) -> None:
        try:
            await self._cont()
        except FirecrackerFailed as error:
            raise self.failed(str(error)) from error

    async def _cont(self) -> None:
        if await self._state() == "Not started":
            await self._api.put("/actions", {"action_type": "InstanceStart"})
        else:
            await self._api.patch("/vm", {"state": "Resumed"})

    async def _state(self) -> str:
        return str((await self._api.get("/")).get("state"))

    async def status(self) -> Status:
        try:
            return Status.RUNNING if await self._state() == "Running" else Status.PAUSED
        except FirecrackerFailed as error:
            raise self.failed(str(error)) from error

    async def wait(self) -> End:
        ended = await self._process.wait()
        if self._killed:
            return End(EndReason.ASKED, ended)
        # One that was adopted tells its exit code in its log only.
        well = ended.code == 0 or (
            ended.code is None and ended.signal is None and ENDED_WELL in self._logs.vmm.tail()
        )
        return End(EndReason.GUEST_SHUTDOWN if well else EndReason.CRASH, ended)

    async def kill(self) -> End:
        self._killed = not self._process.exited
        await self._process.kill()
        return await self.wait()

    async def boot(self, requests: Sequence[Request]) -> None:
        """Make the machine; it starts with `cont`."""
        try:
            for path, body in requests:
                await self._api.put(path, body)
        except FirecrackerFailed as error:
            raise self.failed(f"boot failed: {error}") from error

    async def restore(
        self, start: FromImage | FromSuspend, request: dict[str, object], lease: Lease | None
    ) -> None:
        """Fill a machine that stands empty. `lease` holds it up at its disk."""
        try:
            if lease is None or not isinstance(start, FromSuspend) or start.diff is None:
                await self._api.put(LOAD, request, limit=MEMORY_LIMIT)
                return
            with ungrouped():
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._api.put(LOAD, request, limit=MEMORY_LIMIT))
                    await self._load(start.diff)
                    lease.lift()
        except (FirecrackerFailed, OSError, memory.DiffBroken, LeaseLost) as error:
            raise self.failed(f"restore failed: {error}") from error

    async def _load(self, diff: Path) -> None:
        """Write the pages of a suspend as soon as the memory is mapped."""
        await read_diff(await self._mapped(), diff)

    async def _mapped(self) -> memory.Mapping:
        try:
            async with asyncio.timeout(MAPPED_LIMIT):
                while True:
                    with contextlib.suppress(ProcessLookupError):
                        return memory.find_mapping(self._process.pid, self._spec.memory_file)
                    if self._process.exited:
                        raise FirecrackerFailed("Firecracker has ended")
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise FirecrackerFailed("it does not map the memory file") from None

    async def snapshot_image(self, device: Path) -> None:
        async with self._rolling_back("image snapshot"):
            await self._pause()
            size = self._spec.memory_mib << 20
            mapping = memory.find_anonymous(self._process.pid, size)
            if mapping is None:
                await self._create("Full", MEMORY)
            else:
                await self._create_state()
                await self._write_out(mapping)
            await asyncio.to_thread(self._take_state, device)
        if mapping is None:
            work = asyncio.to_thread(punch_zeros, self._spec.memory_file)
            await shielded(work, limit=MEMORY_LIMIT)

    async def _write_out(self, mapping: memory.Mapping) -> None:
        given_up = threading.Event()

        def work() -> None:
            fd = os.open(self._spec.memory_file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                memory.write_out(mapping, fd, aborted=given_up.is_set)
            finally:
                os.close(fd)

        await shielded(asyncio.to_thread(work), limit=MEMORY_LIMIT, on_cancel=given_up.set)

    async def suspend(self, device: Path, diff: Path) -> SuspendStats:
        begin = time.monotonic()
        async with self._rolling_back("suspend"):
            await self._pause()
            await self._create_state()
            await asyncio.to_thread(self._take_state, device)
            dumped = await write_diff(self._process.pid, self._spec.memory_file, diff)
            written = [drive.path for drive in self._spec.drives if not drive.read_only]
            device_bytes = await shielded(
                asyncio.to_thread(synced, device, written), limit=MEMORY_LIMIT
            )
        return SuspendStats(
            method=SuspendMethod.DIFF,
            device_bytes=device_bytes,
            diff_bytes=dumped.file_bytes,
            diff_sha256=dumped.sha256,
            frozen_seconds=time.monotonic() - begin,
        )

    async def _pause(self) -> None:
        await self._api.patch("/vm", {"state": "Paused"})

    async def _create(self, kind: str, memory_path: str) -> None:
        await self._api.put(
            "/snapshot/create",
            {
                "snapshot_type": kind,
                "snapshot_path": f"{SCRATCH}/state",
                "mem_file_path": memory_path,
            },
            limit=MEMORY_LIMIT,
        )

    async def _create_state(self) -> None:
        """The state without any memory; see the module."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._scratch / "state")
        try:
            await self._create("Full", f"{SCRATCH}/none/memory")
        except FirecrackerFailed as error:
            if STATE_WRITTEN not in str(error):
                raise
            return
        raise FirecrackerFailed("it wrote memory where none can be written")

    def _take_state(self, device: Path) -> None:
        """Move the device state out of the VMM's directory, where anything may lie."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        source = os.open(self._scratch / "state", flags)
        try:
            status = os.fstat(source)
            if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= STATE_LIMIT:
                raise FirecrackerFailed("it left no device state")
            content = os.read(source, STATE_LIMIT)
        finally:
            os.close(source)
        fd = os.open(device, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)

    def failed(self, what: str) -> MachineFailed:
        return self._logs.failure(what, self._process)

    def _rolling_back(self, what: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Let the vCPUs run again when the body fails or is cancelled."""
        return taken_back(what, self._process, self._cont, FirecrackerFailed, self.failed)


def scratch_of(pid: int) -> Path:
    """The VMM's own directory, from outside. A VMM in a jail has the jail's root as directory."""
    return Path(f"/proc/{pid}/cwd") / SCRATCH
