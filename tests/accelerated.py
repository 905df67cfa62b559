"""Which accelerator the machines of the tests run under: emulation, unless told otherwise.

Tests on the bare machine must show the same everywhere; within a KVM host (`tests/kvmhost`) the
same tests are told to use KVM.
"""

import os
from pathlib import Path

from microvmd.vmm.accelerator import measure_tsc_khz
from microvmd.vmm.machine import Accelerator, AcceleratorKind

VARIABLE = "MICROVMD_TEST_ACCELERATOR"
PATIENCE_VARIABLE = "MICROVMD_TEST_PATIENCE"
PATIENCE = float(os.environ.get(PATIENCE_VARIABLE, "1"))
"""By how much more time all may take: within a KVM host the processor itself is emulated."""


def accelerator_kind() -> AcceleratorKind:
    return AcceleratorKind(os.environ.get(VARIABLE, "tcg"))


def accelerator() -> Accelerator:
    return Accelerator(accelerator_kind(), "tests", measure_tsc_khz())


def own_machine() -> bool:
    """Whether this is a KVM host, which only the tests use: its clock may be set."""
    return Path("/usr/lib/kvm-host/inside.py").exists()
