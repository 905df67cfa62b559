"""What is told of the accelerator: what is set, else what the node has found out."""

from pathlib import Path

from microvmd.service.accelerator import CACHE, told_accelerator
from microvmd.settings.settings import Settings, VmmSettings
from microvmd.vmm.accelerator import _remember
from microvmd.vmm.machine import Accelerator, AcceleratorKind


def test_as_set(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path, vmm=VmmSettings(accelerator="tcg"))
    told = told_accelerator(settings)
    assert told is not None
    assert told["kind"] == "tcg"


def test_as_found_out(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path)
    assert told_accelerator(settings) is None
    _remember(tmp_path / CACHE, Accelerator(AcceleratorKind.KVM, "a guest booted in 0.4 s", 0))
    assert told_accelerator(settings) == {"kind": "kvm", "reason": "a guest booted in 0.4 s"}
