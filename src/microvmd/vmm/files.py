"""Files of a machine that the node makes or makes last, whichever VMM uses them."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from microvmd.vmm.console import BoundedLog
from microvmd.vmm.machine import MachineFiles, MachineSpec


@dataclass(frozen=True, slots=True)
class Logs:
    vmm: BoundedLog
    serial: BoundedLog


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


def synced(device: Path, drives: list[Path]) -> int:
    """Make all files of a suspend last; gives the size of the device state."""
    for path in (device, *drives):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    return device.stat().st_size
