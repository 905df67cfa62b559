"""Builds in a throw-away microVM: the isolation for Dockerfiles of strangers, and the default.

The machine boots the builder's root read-only from the guest kernel and agent that every MicroVM
uses, in a jail and a network of its own. Everything goes in and out as raw disks; the node looks
into none of them but the finished file system's size and the bounded result. The account's layer
store is a disk of that account alone, for whoever can write it can poison later builds.
"""

import asyncio
import os
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from microvmd.build import debian
from microvmd.build.job import Job, Mount
from microvmd.build.lines import LineLog, Meter
from microvmd.build.toolchain import INSIDE, PYTHON, ImageStore
from microvmd.build.workshop import Log, Order, OutOfTime, watch_space
from microvmd.node.disk import create_disk
from microvmd.node.guest import GuestClient, GuestFailed, connect
from microvmd.node.jail import Jails, limits_of
from microvmd.node.kernel import GuestKernel
from microvmd.node.network import NetworkPool
from microvmd.vmm.machine import Accelerator, Boot, Drive, MachineFiles, MachineSpec, Vmm, launched
from microvmd.vmm.process import run

slog = structlog.get_logger(__name__)

_BOOT_LIMIT = 120.0
_SCRATCH_BYTES = 1 << 30
_SECTOR = 512
# The order of the drives decides their names in the guest.
_STORE, _ARCHIVE, _OUTPUT, _RESULT, _EXTRAS, _BASES = 2, 3, 4, 5, 6, 7


def _device(position: int) -> str:
    return f"/dev/vd{chr(ord('a') + position)}"


@dataclass(frozen=True, slots=True)
class MicrovmWorkshop:
    """Sizes are those of the build machine; disks are sparse files."""

    kernel: GuestKernel
    accelerator: Accelerator
    vmm: Vmm
    networks: NetworkPool
    jails: Jails
    host_cpus: int
    memory_mib: int = 2048
    vcpus: int = 2
    disk_bytes: int = 20 << 30
    image_bytes: int = 8 << 30

    def base_path(self, store: ImageStore, position: int) -> str:
        return f"/build/bases/{position}"

    def complete(self, job: Job) -> Job:
        # Without noinit_itable the guest would write all inode tables of a fresh store; with
        # discard, what a build has thrown away costs the node no disk either.
        options = "rw,noatime,noinit_itable,discard"
        store = Mount(_device(_STORE), "/build/store", "ext4", options)
        bases = (
            Mount(_device(_BASES + position), path, "erofs", "ro")
            for position, path in enumerate(job.bases)
        )
        return replace(
            job,
            mounts=(store, *bases),
            files_limit=self.disk_bytes,
            archive=_device(_ARCHIVE),
            output=_device(_OUTPUT),
            result=_device(_RESULT),
        )

    async def run(self, order: Order, log: Log) -> int:
        directory = order.extras.parent / "vm"
        directory.mkdir(mode=0o700)
        spec = await self._machine(order, directory)
        try:
            async with watch_space(order.output), asyncio.timeout(order.time_limit):
                return await self._build(order, spec, directory, log)
        except TimeoutError as error:
            raise OutOfTime from error
        except GuestFailed as error:
            serial = MachineFiles(directory).serial_log
            slog.warning("build.machine_lost", error=str(error), serial=_tail(serial))
            log(f"error: the build machine was lost: {error}")
            return -1

    async def forget_layers(self, order: Order) -> bool:
        store = self._store(order)
        existed = store.exists()
        store.unlink(missing_ok=True)
        return existed

    def _store(self, order: Order) -> Path:
        return order.layers / "microvm" / "store.ext4"

    async def _machine(self, order: Order, directory: Path) -> MachineSpec:
        scratch = directory / "scratch.ext4"
        extras = directory / "extras.erofs"
        await create_disk(scratch, _SCRATCH_BYTES)
        await self._prepare_store(self._store(order))
        _fill_sector(order.archive)
        await run(
            ["mkfs.erofs", "--quiet", "-T", str(debian.EPOCH), str(extras), str(order.extras)],
            timeout=60,
        )
        os.truncate(order.output, self.image_bytes)
        drives = [
            Drive("rootfs", order.toolchain.erofs, read_only=True),
            Drive("disk", scratch),
            Drive("store", self._store(order)),
            Drive("archive", order.archive, read_only=True),
            Drive("output", order.output),
            Drive("result", order.result),
            Drive("extras", extras, read_only=True),
        ]
        drives += [
            Drive(f"base{position}", store.erofs, read_only=True)
            for position, store in enumerate(order.stores)
        ]
        return MachineSpec(
            memory_mib=self.memory_mib,
            vcpus=min(self.vcpus, self.host_cpus),
            memory_file=directory / "memory",
            kernel=self.kernel.vmlinux,
            initrd=self.kernel.initrd,
            accelerator=self.accelerator,
            drives=tuple(drives),
        )

    async def _prepare_store(self, store: Path) -> None:
        """Make the account's layer disk on its first build; whole or not at all.

        One of another size is from before a change of settings, and made anew.
        """
        fresh = _fresh(store, self.disk_bytes)
        if fresh is None:
            return
        argv = ["mkfs.ext4", "-q", "-F", "-m", "0"]
        argv += ["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", os.fspath(fresh)]
        await run(argv, timeout=120)
        os.rename(fresh, store)

    async def _build(self, order: Order, spec: MachineSpec, directory: Path, log: Log) -> int:
        files = MachineFiles(directory)
        name = f"build-{uuid.uuid4()}"
        limits = limits_of(spec, files=order.memory_bytes)
        log("booting the build machine")
        async with AsyncExitStack() as stack:
            network = await stack.enter_async_context(self.networks.network(order.egress))
            jail = await stack.enter_async_context(
                self.jails.jail(name, limits, spec.accelerator.kind)
            )
            machine = await stack.enter_async_context(
                launched(self.vmm, spec, files, jail, Boot(), tap=network.tap)
            )
            await machine.cont()
            guest = await stack.enter_async_context(connect(machine.agent, timeout=_BOOT_LIMIT))
            # The machine's clock may be off, and certificates are checked in the build.
            await guest.restored("build", uuid.uuid4().hex)
            return await _execute(guest, order, log)


async def _execute(guest: GuestClient, order: Order, log: Log) -> int:
    argv = [PYTHON, "-I", INSIDE, _device(_EXTRAS)]
    lines = LineLog(log, Meter(rate=order.log_lines))
    try:
        async with await guest.exec(argv, all_capabilities=True) as session:
            session.close_input()
            while (chunk := await session.read()) is not None:
                lines.feed(chunk[1])
            ended = await session.wait()
    finally:
        lines.close()
    return ended.code if ended.code is not None else -(ended.signal or 0)


def _fresh(store: Path, size: int) -> Path | None:
    if store.exists():
        if store.stat().st_size == size:
            return None
        store.unlink()
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = store.with_suffix(".new")
    with fresh.open("wb") as file:
        file.truncate(size)
    return fresh


def _fill_sector(path: Path) -> None:
    """A disk has whole sectors: where a file lacks some of its last one, QEMU adds zeros, and
    Firecracker leaves out what there is."""
    os.truncate(path, -(-path.stat().st_size // _SECTOR) * _SECTOR)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2000))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
