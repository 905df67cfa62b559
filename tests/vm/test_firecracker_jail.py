"""Firecracker in a jail, with a network card: as a node runs it, but for the guest.

Collected where /dev/kvm makes machines (`conftest.py`).
"""

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.node.jail import Jail, Jails, limits_of
from microvmd.node.jail_facts import flaws
from microvmd.node.network import Network, NetworkPool
from microvmd.vmm.firecracker import FirecrackerVmm
from microvmd.vmm.machine import (
    AcceleratorKind,
    Boot,
    FromImage,
    FromSuspend,
    Machine,
    MachineFiles,
    Start,
    Status,
    launched,
)
from tests.lanes import Lane
from tests.vm.test_firecracker_machine import PROGRAM, Counting, counting, counts_on

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.anyio]

__all__ = ["counting"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Names of sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="fc-") as path:
        yield Path(path)


class Site:
    """Jails and networks for Firecracker."""

    def __init__(self, vmm: FirecrackerVmm, jails: Jails, networks: NetworkPool) -> None:
        self.vmm, self.jails, self.networks = vmm, jails, networks

    @asynccontextmanager
    async def started(
        self, counting: Counting, place: Path, start: Start
    ) -> AsyncIterator[tuple[Machine, Jail, Network]]:
        spec = counting.spec if isinstance(start, Boot) else counting.spec_for(place)
        os.makedirs(place, exist_ok=True)
        async with (
            self.networks.network() as network,
            self.jails.jail(place.name, limits_of(spec), AcceleratorKind.KVM) as jail,
            launched(self.vmm, spec, MachineFiles(place), jail, start, tap=network.tap) as machine,
        ):
            yield machine, jail, network


@pytest.fixture
async def site(counting: Counting, directory: Path) -> AsyncIterator[Site]:
    vmm = replace(counting.vmm, in_jail=True)
    assert vmm.program == PROGRAM
    run = directory / "run"
    run.mkdir()
    with Lane.claimed(str(directory)) as lane:
        settings = replace(lane.jails(directory / "cache"), surroundings=vmm.surroundings)
        with contextlib.closing(await Jails.open(settings)) as jails:
            async with NetworkPool(lane.networks(run)) as networks:
                yield Site(vmm, jails, networks)
            jails.sweep(set())


async def test_from_boot_to_a_second_resume(
    site: Site, counting: Counting, directory: Path
) -> None:
    # A boot of its own: this snapshot knows its files by their places in a jail, and has a card.
    spec = replace(counting.spec, memory_file=directory / "memory")
    jailed = replace(counting, spec=spec, device=directory / "image-device")
    async with site.started(jailed, directory / "boot", Boot()) as (machine, _, _):
        await machine.cont()
        await machine.snapshot_image(jailed.device)
        assert flaws(machine.identity.pid) == []
    spec.memory_file.chmod(0o444)
    jailed.device.chmod(0o444)
    start: Start = FromImage(jailed.device)
    for generation in range(2):
        device, diff = directory / f"device{generation}", directory / f"diff{generation}"
        async with site.started(jailed, directory / "vm", start) as (machine, jail, _):
            assert await machine.status() is Status.PAUSED
            await machine.cont()
            await counts_on(machine, spec)
            assert flaws(machine.identity.pid) == []
            assert (directory / "vm" / "disk.raw").stat().st_uid == jail.uid
            await machine.suspend(device, diff)
            await machine.kill()
        assert not (directory / "vm" / "scratch").exists(), "a jail has a file system for it"
        start = FromSuspend(device, diff)
