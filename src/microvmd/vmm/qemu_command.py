"""What a QEMU process inherits: everything that it is to have open, and a command line to match."""

import contextlib
import os
import socket
from pathlib import Path

from microvmd.vmm.command_line import DriveFiles, OpenFiles, Paths, binds, command_line
from microvmd.vmm.files import Logs
from microvmd.vmm.machine import (
    Boot,
    Launcher,
    MachineFiles,
    MachineSpec,
    Start,
    Tap,
    VmmCommand,
)


def opened_command(
    spec: MachineSpec,
    files: MachineFiles,
    launcher: Launcher,
    start: Start,
    tap: Tap | None,
    qemu: Path,
    logs: Logs,
    opened: contextlib.ExitStack,
) -> VmmCommand:
    """Open everything that the VMM inherits; our copies close with `opened`.

    That matters: locks on the disks belong to the open file, so a copy that we kept would hold the
    lock of a dead VMM, and a copy of a listener would accept connections that nobody answers.
    """
    output, output_reader = opened.enter_context(logs.vmm.ends())
    serial, serial_reader = opened.enter_context(logs.serial.ends())
    open_files = OpenFiles(
        qmp=_listen(files.control, opened),
        agent=_listen(files.agent, opened),
        serial=serial,
        drives=tuple(
            DriveFiles(
                file=_open(drive.path, os.O_RDONLY if drive.read_only else os.O_RDWR, opened),
                backing=_open(drive.backing, os.O_RDONLY, opened) if drive.backing else None,
            )
            for drive in spec.drives
        ),
        tap=None if tap is None else _tap(tap, opened),
        device=None if isinstance(start, Boot) else _open(start.device, os.O_RDONLY, opened),
    )
    shown = binds(spec, start)
    paths = Paths(*(launcher.locate(bind) for bind in shown))
    inherited = [output_reader, serial_reader, *_numbers(open_files)]
    return VmmCommand(
        argv=command_line(qemu, spec, start, open_files, paths, name=files.directory.name),
        fds=tuple(inherited),
        binds=shown,
        output=output,
    )


def _tap(tap: Tap, opened: contextlib.ExitStack) -> int:
    fd = tap.open()
    opened.callback(os.close, fd)
    return fd


def _numbers(files: OpenFiles) -> list[int]:
    drives = [fd for drive in files.drives for fd in (drive.file, drive.backing)]
    every = [files.qmp, files.agent, files.serial, files.tap, files.device, *drives]
    return [fd for fd in every if fd is not None]


def _open(path: Path, flags: int, opened: contextlib.ExitStack) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd


def _listen(path: Path, opened: contextlib.ExitStack) -> int:
    listener = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    path.unlink(missing_ok=True)
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen(4)
    return listener.fileno()
