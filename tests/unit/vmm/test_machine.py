"""What is said of a machine: its files, its CPU model, and a failure with its evidence."""

from pathlib import Path

import pytest

from microvmd.vmm.firecracker_machine import FirecrackerMachine
from microvmd.vmm.machine import Accelerator, AcceleratorKind, MachineFailed, MachineFiles
from microvmd.vmm.qemu import QemuMachine


def test_a_failure_shows_what_the_logs_hold() -> None:
    plain = MachineFailed("restore failed")
    assert str(plain) == "restore failed"
    full = MachineFailed("restore failed", vmm_log="no such device", serial_log="panic")
    assert str(full) == ("restore failed; VMM said: no such device; guest console ends: panic")
    assert (full.what, full.vmm_log, full.serial_log) == (
        "restore failed",
        "no such device",
        "panic",
    )


@pytest.mark.parametrize(
    ("kind", "model"), [(AcceleratorKind.KVM, "host"), (AcceleratorKind.TCG, "max")]
)
def test_the_cpu_model_follows_from_the_accelerator(kind: AcceleratorKind, model: str) -> None:
    assert Accelerator(kind, "why", 1).cpu_model == model


def test_files_of_a_machine_lie_side_by_side() -> None:
    files = MachineFiles(Path("/m"))
    paths = [files.control, files.agent, files.serial_log, files.vmm_log]
    assert len(set(paths)) == 4
    assert {path.parent for path in paths} == {Path("/m")}


@pytest.mark.parametrize("machine", [QemuMachine, FirecrackerMachine])
def test_each_vmm_offers_all_of_a_machine(machine: type) -> None:
    members = ("cont", "snapshot_image", "suspend", "status", "wait", "kill", "detach", "identity")
    assert all(hasattr(machine, member) for member in members)
