"""Firecracker where it can run and is wanted, and a reason in words for everything else."""

import os
from pathlib import Path

import pytest

from microvmd.vmm.choice import VmmUnfit, choose, choose_others, surroundings_of
from microvmd.vmm.firecracker import digest
from microvmd.vmm.machine import Accelerator, AcceleratorKind, VmmName, Wanted
from microvmd.vmm.qemu import QEMU, SMALL_QEMU

pytestmark = pytest.mark.anyio

KVM = Accelerator(AcceleratorKind.KVM, "a guest booted", 0)
TCG = Accelerator(AcceleratorKind.TCG, "/dev/kvm does not exist", 0)


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    program = tmp_path / "firecracker"
    program.write_text("#!/bin/sh\necho Firecracker v1.12.1\n")
    program.chmod(0o755)
    return tmp_path


async def test_qemu_is_taken_at_its_word(assets: Path) -> None:
    choice = await choose(Wanted("qemu"), KVM, assets)
    assert (choice.vmm.name, choice.reason) == (VmmName.QEMU, "as configured")


async def test_the_small_qemu_runs_machines_that_need_no_emulation(assets: Path) -> None:
    programs = {}
    for accelerator in (KVM, TCG):
        vmm = (await choose(Wanted("qemu"), accelerator, assets)).vmm
        programs[accelerator.kind] = vmm.surroundings.program
        assert surroundings_of(os.fspath(vmm.surroundings.place)) == vmm.surroundings
    assert programs == {AcceleratorKind.KVM: SMALL_QEMU, AcceleratorKind.TCG: QEMU}


@pytest.mark.parametrize("kind", ["auto", "firecracker"])
async def test_firecracker_where_kvm_works(assets: Path, kind: str) -> None:
    choice = await choose(Wanted(kind, digest(assets / "firecracker")), KVM, assets)
    assert (choice.vmm.name, choice.vmm.version) == (VmmName.FIRECRACKER, "1.12.1")


async def test_without_kvm_auto_is_qemu_and_firecracker_a_failure(assets: Path) -> None:
    choice = await choose(Wanted("auto"), TCG, assets)
    assert choice.vmm.name is VmmName.QEMU
    assert choice.reason == "Firecracker needs KVM, and here is none: /dev/kvm does not exist"
    with pytest.raises(VmmUnfit, match=r"needs KVM.*set vmm.kind to qemu or auto"):
        await choose(Wanted("firecracker"), TCG, assets)


async def test_another_digest_is_not_taken(assets: Path) -> None:
    with pytest.raises(VmmUnfit, match=r"not vmm.firecracker_sha256"):
        await choose(Wanted("firecracker", "0" * 64), KVM, assets)


async def test_an_unsupported_version_is_told(assets: Path) -> None:
    (assets / "firecracker").write_text("#!/bin/sh\necho Firecracker v1.9.0\n")
    with pytest.raises(VmmUnfit, match=r"is Firecracker 1.9.0; supported are"):
        await choose(Wanted("firecracker"), KVM, assets)
    assert "1.9.0" in (await choose(Wanted(), KVM, assets)).reason


async def test_others_are_what_is_offered_beside_the_chosen_one(assets: Path) -> None:
    own = (await choose(Wanted("qemu"), KVM, assets)).vmm
    others = await choose_others(Wanted("qemu"), ("qemu", "firecracker"), own, KVM, assets)
    assert [one.name for one in others] == [VmmName.FIRECRACKER]
    with pytest.raises(VmmUnfit, match=r"needs KVM.* or take it out of vmm.offered"):
        await choose_others(Wanted("qemu"), ("firecracker",), own, TCG, assets)
