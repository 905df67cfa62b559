"""What the sequences of all VMMs have in common: the files of a machine, and the way back."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from microvmd.vmm import memory
from microvmd.vmm.console import BoundedLog
from microvmd.vmm.machine import MachineFailed, MachineFiles, MachineSpec
from microvmd.vmm.process import Process
from microvmd.vmm.shield import shielded

log = structlog.get_logger(__name__)

ROLLBACK_LIMIT = 60.0
MEMORY_LIMIT = 300.0
"""Seconds for moving guest memory; only a full snapshot of a large guest comes near it."""


@dataclass(frozen=True, slots=True)
class Logs:
    vmm: BoundedLog
    serial: BoundedLog
    counts: BoundedLog | None = None

    def moved(self, files: MachineFiles) -> None:
        """The directory of the machine has got another name."""
        self.vmm.moved(files.vmm_log)
        self.serial.moved(files.serial_log)
        if self.counts is not None:
            self.counts.moved(files.counts_log)

    def failure(self, what: str, process: Process) -> MachineFailed:
        """An error with the evidence that the logs hold."""
        if process.exited:
            what += "; the VMM has ended"
        return MachineFailed(what, vmm_log=self.vmm.tail(), serial_log=self.serial.tail())


def open_logs(files: MachineFiles, stack: contextlib.ExitStack) -> Logs:
    vmm = stack.enter_context(BoundedLog(files.vmm_log))
    return Logs(vmm, stack.enter_context(BoundedLog(files.serial_log)))


def make_memory_file(spec: MachineSpec) -> None:
    """Sparse, of the size of the guest's memory."""
    fd = os.open(spec.memory_file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, spec.memory_mib << 20)
    finally:
        os.close(fd)


async def write_diff(pid: int, memory_file: Path, diff: Path) -> memory.DumpResult:
    """The private pages that a VMM has over its memory file. Raises what `memory.dump` raises."""
    given_up = threading.Event()

    def work() -> memory.DumpResult:
        mapping = memory.find_mapping(pid, memory_file)
        fd = os.open(diff, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            return memory.dump(mapping, fd, aborted=given_up.is_set)
        finally:
            os.close(fd)

    return await shielded(asyncio.to_thread(work), limit=MEMORY_LIMIT, on_cancel=given_up.set)


async def read_diff(mapping: memory.Mapping, diff: Path) -> None:
    """Write the pages of a suspend over the mapping of a VMM that stands still."""

    def work() -> None:
        with open(diff, "rb", buffering=0) as file:
            memory.load(mapping, file.fileno())

    await shielded(asyncio.to_thread(work), limit=MEMORY_LIMIT)


@contextlib.asynccontextmanager
async def taken_back(
    what: str,
    process: Process,
    cont: Callable[[], Coroutine[Any, Any, None]],
    refused: type[Exception],
    failed: Callable[[str], MachineFailed],
) -> AsyncIterator[None]:
    """`cont` when the body fails or is cancelled. What the VMM `refused` becomes MachineFailed."""
    try:
        yield
    except BaseException as error:
        log.warning("machine.rollback", what=what, pid=process.pid, error=repr(error))
        try:
            await shielded(cont(), limit=ROLLBACK_LIMIT)
        except (refused, TimeoutError) as lost:
            raise failed(f"{what} failed and was not taken back: {lost}") from error
        if isinstance(error, (refused, OSError)):
            raise failed(f"{what} failed and was taken back: {error}") from error
        raise


def synced(device: Path, drives: list[Path]) -> int:
    """Make all files of a suspend last; gives the size of the device state."""
    for path in (device, *drives):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    return device.stat().st_size
