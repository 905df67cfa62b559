"""A small guest, booted once per test run, from which the VMM tests restore their machines."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from microvmd.node.disk import create_disk, create_overlay
from microvmd.node.jail import Jails, JailSettings
from microvmd.node.kernel import prepare
from microvmd.vmm.machine import (
    Accelerator,
    AcceleratorKind,
    Boot,
    Drive,
    FromImage,
    Launcher,
    MachineFiles,
    MachineSpec,
    Start,
)
from microvmd.vmm.qemu import PlainLauncher, QemuMachine, launch
from tests.accelerated import accelerator, accelerator_kind, own_machine
from tests.checkout import ASSETS
from tests.lanes import Lane
from tests.nodelab import NodeLab, vmm_kind

KVM = "/dev/kvm"
# linux/kvm.h
KVM_CREATE_VM = 0xAE01
BOOT_LIMIT = 120
ANSWER_LIMIT = 60


def makes_machines() -> bool:
    """Whether there is a /dev/kvm that does."""
    try:
        with open(KVM, "r+b", buffering=0) as device:
            os.close(fcntl.ioctl(device, KVM_CREATE_VM, 0))
    except OSError:
        return False
    return True


# Not skipped where there is none: the KVM host (tests/kvmhost) runs them on every machine.
ON_KVM = ["test_firecracker_machine.py", "test_firecracker_jail.py"]
# One that makes machines may yet run no Linux: whoever asks for KVM knows that it does.
WITH_LINUX = ["test_two_vmms.py"]
UNDER_FIRECRACKER = ["test_firecracker_full_disk.py"]
SETTING_THE_CLOCK = ["test_clocks.py"]
collect_ignore = [
    *([] if makes_machines() else ON_KVM),
    *([] if accelerator_kind() is AcceleratorKind.KVM else WITH_LINUX),
    *([] if vmm_kind() == "firecracker" else UNDER_FIRECRACKER),
    *([] if own_machine() else SETTING_THE_CLOCK),
]


class Voice:
    """Connection to the small guest (`init.c`): one line each way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, command: str) -> None:
        self._writer.write(command.encode() + b"\n")

    async def ask(self, command: str, limit: float = ANSWER_LIMIT) -> str:
        self.say(command)
        return await self.hears(limit)

    async def hears(self, limit: float = ANSWER_LIMIT) -> str:
        async with asyncio.timeout(limit):
            return (await self._reader.readline()).decode().strip()


@contextlib.asynccontextmanager
async def talk(files: MachineFiles) -> AsyncIterator[Voice]:
    reader, writer = await asyncio.open_unix_connection(files.agent)
    try:
        yield Voice(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@dataclass(frozen=True)
class SmallGuest:
    """The image snapshot of the small guest: 20 MiB of its memory are filled, one file written."""

    spec: MachineSpec
    device: Path
    memory_sum: str
    file_sum: str

    def spec_for(self, directory: Path) -> MachineSpec:
        """The machine of a clone; its overlay is made when it is not there yet."""
        directory.mkdir(exist_ok=True)
        overlay = directory / "overlay.qcow2"
        if not overlay.exists():
            create_overlay(overlay, self.spec.drives[0].path)
        return replace(
            self.spec, drives=(Drive("disk", overlay, backing=self.spec.drives[0].path),)
        )

    @contextlib.asynccontextmanager
    async def restored(
        self,
        directory: Path,
        start: Start | None = None,
        launcher: Launcher | None = None,
        qemu: Path | None = None,
    ) -> AsyncIterator[tuple[QemuMachine, Voice]]:
        """A clone that runs, and a connection to its guest."""
        files = MachineFiles(directory)
        spec = self.spec_for(directory)
        start = start or FromImage(self.device)
        launcher = launcher or PlainLauncher()
        async with launch(spec, files, launcher, start, qemu=qemu) as machine:
            await machine.cont()
            async with talk(files) as voice:
                yield machine, voice


@pytest.fixture(scope="session")
def small_guest(tmp_path_factory: pytest.TempPathFactory) -> SmallGuest:
    directory = tmp_path_factory.mktemp("small-guest")
    assets = directory / "assets"
    assets.mkdir()
    (assets / "kernel").symlink_to(ASSETS / "kernel")
    source, program = Path(__file__).with_name("init.c"), assets / "microvmd-agent"
    subprocess.run(["gcc", "-static", "-O2", "-o", program, source], check=True)
    kernel = prepare(assets, directory / "cache")
    return asyncio.run(_boot(directory, kernel.vmlinux, kernel.initrd, accelerator()))


async def _boot(
    directory: Path, kernel: Path, initrd: Path, accelerator: Accelerator
) -> SmallGuest:
    disk, device = directory / "disk.raw", directory / "device"
    await create_disk(disk, 1 << 30)
    spec = MachineSpec(
        memory_mib=512,
        vcpus=1,
        memory_file=directory / "memory",
        kernel=kernel,
        initrd=initrd,
        accelerator=accelerator,
        drives=(Drive("disk", disk),),
    )
    files = MachineFiles(directory)
    async with launch(spec, files, PlainLauncher(), Boot()) as machine:
        async with asyncio.timeout(BOOT_LIMIT):
            await machine.cont_until_agent()
        async with talk(files) as voice:
            memory_sum = await voice.ask("dirty 20 7")
            file_sum = await voice.ask("put base 1000 1")
            assert await voice.ask("sync") == "ok"
            await machine.snapshot_image(device)
    spec.memory_file.chmod(0o444)
    disk.chmod(0o444)
    return SmallGuest(spec, device, memory_sum, file_sum)


@pytest.fixture(scope="session")
def jail_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JailSettings]:
    cache = tmp_path_factory.mktemp("jail")
    with Lane.claimed() as lane:
        yield lane.jails(cache)
    shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture
async def jails(jail_settings: JailSettings) -> AsyncIterator[Jails]:
    jails = await Jails.open(jail_settings)
    with contextlib.closing(jails):
        yield jails
        jails.sweep(set())


@pytest.fixture(scope="session")
def node_lab() -> Iterator[NodeLab]:
    """A node with one image version on it, made once."""
    with NodeLab.with_image() as lab:
        yield lab
