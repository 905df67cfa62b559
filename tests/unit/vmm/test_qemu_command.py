"""A QEMU inherits just what it needs, and we keep none of it open."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.vmm.files import open_logs
from microvmd.vmm.machine import (
    Accelerator,
    AcceleratorKind,
    Drive,
    FromImage,
    MachineFiles,
    MachineSpec,
)
from microvmd.vmm.qemu import QEMU, PlainLauncher
from microvmd.vmm.qemu_command import opened_command

pytestmark = pytest.mark.anyio


def _spec(directory: Path) -> MachineSpec:
    for name in ("memory", "rootfs", "overlay", "disk", "device"):
        (directory / name).touch()
    drives = (
        Drive("rootfs", directory / "rootfs", read_only=True),
        Drive("disk", directory / "overlay", backing=directory / "disk"),
    )
    accelerator = Accelerator(AcceleratorKind.TCG, "test", 0)
    return MachineSpec(1, 1, directory / "memory", directory, directory, accelerator, drives)


async def test_files_are_inherited_by_number_and_closed_with_the_context(tmp_path: Path) -> None:
    spec, files = _spec(tmp_path), MachineFiles(tmp_path)
    with contextlib.ExitStack() as stack:
        logs = open_logs(files, stack)
        start = FromImage(tmp_path / "device")
        with contextlib.ExitStack() as opened:
            command = opened_command(spec, files, PlainLauncher(), start, None, QEMU, logs, opened)
            names = {Path(os.readlink(f"/proc/self/fd/{fd}")).name for fd in command.fds}
            assert {"rootfs", "overlay", "disk", "device"} <= names
            assert "memory" not in names, "QEMU opens it by path"
            assert [bind.source for bind in command.binds] == [spec.memory_file]
            assert files.control.exists()
        for fd in command.fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


async def test_nothing_stays_open_when_a_file_is_missing(tmp_path: Path) -> None:
    spec, files = _spec(tmp_path), MachineFiles(tmp_path)
    missing = replace(spec.drives[1], backing=tmp_path / "none")
    spec = replace(spec, drives=(spec.drives[0], missing))
    with contextlib.ExitStack() as stack:
        logs = open_logs(files, stack)
        before = set(os.listdir("/proc/self/fd"))
        with contextlib.ExitStack() as opened, pytest.raises(FileNotFoundError):
            opened_command(
                spec, files, PlainLauncher(), FromImage(tmp_path), None, QEMU, logs, opened
            )
        assert set(os.listdir("/proc/self/fd")) == before
