"""Which VMM runs the machines of this node, and why."""

import asyncio
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from microvmd.vmm import firecracker
from microvmd.vmm.firecracker import FirecrackerUnfit, FirecrackerVmm
from microvmd.vmm.machine import (
    AUTO,
    Accelerator,
    AcceleratorKind,
    Surroundings,
    Vmm,
    VmmName,
    Wanted,
)
from microvmd.vmm.qemu import QEMU, SMALL_QEMU, QemuVmm, installed_version, program_of
from microvmd.vmm.qemu import surroundings as qemu_surroundings


class VmmUnfit(Exception):
    """The VMM that is asked for cannot run here; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Choice:
    vmm: Vmm
    reason: str


def surroundings_of(program: str) -> Surroundings:
    """By the place of the program in its jail; those of QEMU for an unknown one."""
    known = FirecrackerVmm(Path(program), "").surroundings
    if os.fspath(known.place) == program:
        return known
    return qemu_surroundings(SMALL_QEMU if program == os.fspath(SMALL_QEMU) else QEMU)


async def choose(wanted: Wanted, accelerator: Accelerator, assets: Path) -> Choice:
    """`auto` takes Firecracker where it can run. Raises VmmUnfit, ProcessFailed."""
    if wanted.kind == VmmName.QEMU:
        return await _qemu(accelerator, "as configured")
    if accelerator.kind is not AcceleratorKind.KVM:
        reason = f"Firecracker needs KVM, and here is none: {accelerator.reason}"
        return await _instead(wanted, accelerator, reason)
    program = firecracker.find(assets)
    if program is None:
        where = f"in {assets}, /usr/bin and /usr/local/bin"
        return await _instead(wanted, accelerator, f"there is no program firecracker {where}")
    try:
        version = await firecracker.installed_version(program)
    except FirecrackerUnfit as error:
        return await _instead(wanted, accelerator, str(error))
    if wanted.firecracker_sha256:
        digest = await asyncio.to_thread(firecracker.digest, program)
        if digest != wanted.firecracker_sha256:
            return await _instead(
                wanted,
                accelerator,
                f"the digest of {program} is {digest}, not vmm.firecracker_sha256",
            )
    vmm = FirecrackerVmm(program, version, wanted.cpu_template)
    reason = "as configured" if wanted.kind != AUTO else f"KVM works, and there is {program}"
    return Choice(vmm, reason)


async def choose_others(
    wanted: Wanted, offered: Collection[str], first: Vmm, accelerator: Accelerator, assets: Path
) -> Sequence[Vmm]:
    """Those of ``offered`` beside the chosen one. Raises VmmUnfit, ProcessFailed."""
    return [
        (await choose(replace(wanted, kind=kind), accelerator, assets)).vmm
        for kind in sorted({*offered} - {first.name})
    ]


async def _instead(wanted: Wanted, accelerator: Accelerator, reason: str) -> Choice:
    if wanted.kind != AUTO:
        raise VmmUnfit(
            f"{reason}: change that, set vmm.kind to {VmmName.QEMU} or {AUTO}, or take it out of "
            "vmm.offered"
        )
    return await _qemu(accelerator, reason)


async def _qemu(accelerator: Accelerator, reason: str) -> Choice:
    program = program_of(accelerator)
    return Choice(QemuVmm(await installed_version(program), program), reason)
