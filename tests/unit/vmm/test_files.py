"""The memory file of a boot, and what a suspend makes last."""

from pathlib import Path

import pytest

from microvmd.vmm.files import make_memory_file, synced
from microvmd.vmm.machine import Accelerator, AcceleratorKind, MachineSpec


def test_a_memory_file_is_sparse_and_made_once(tmp_path: Path) -> None:
    accelerator = Accelerator(AcceleratorKind.TCG, "test", 0)
    spec = MachineSpec(64, 1, tmp_path / "memory", tmp_path, tmp_path, accelerator)
    make_memory_file(spec)
    status = spec.memory_file.stat()
    assert (status.st_size, status.st_blocks, status.st_mode & 0o777) == (64 << 20, 0, 0o600)
    with pytest.raises(FileExistsError):
        make_memory_file(spec)


def test_what_was_synced_tells_the_size_of_the_state(tmp_path: Path) -> None:
    device, disk = tmp_path / "device", tmp_path / "disk"
    device.write_text("12345")
    disk.write_text("")
    assert synced(device, [disk]) == 5
    with pytest.raises(FileNotFoundError):
        synced(device, [tmp_path / "none"])
