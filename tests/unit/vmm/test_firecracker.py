"""Which programs are taken for Firecracker, and what its jail shows it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from microvmd.vmm.firecracker import (
    FirecrackerUnfit,
    FirecrackerVmm,
    _binds,
    digest,
    find,
    installed_version,
)
from microvmd.vmm.machine import (
    Accelerator,
    AcceleratorKind,
    Boot,
    Drive,
    FromImage,
    MachineSpec,
)

Program = Callable[[str], Path]
KVM = Accelerator(AcceleratorKind.KVM, "test", 0)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def make(says: str) -> Path:
        path = tmp_path / "firecracker"
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return path

    return make


@pytest.mark.anyio
async def test_a_supported_version_is_told(program: Program) -> None:
    assert await installed_version(program("Firecracker v1.12.1")) == "1.12.1"
    assert await installed_version(program("Firecracker v1.16.1")) == "1.16.1"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("Firecracker v1.11.0", "1.11.0; supported are 1.12 to 1.16"),
        ("Firecracker v1.16.0", "next patch release"),
        ("Firecracker v1.17.0", "install one of these"),
        ("Firecracker v2.0.0", "supported are"),
        ("Firecracker main-abc", "is no release"),
    ],
)
async def test_others_are_refused_with_a_reason(program: Program, says: str, why: str) -> None:
    with pytest.raises(FirecrackerUnfit, match=why):
        await installed_version(program(says))


@pytest.mark.anyio
async def test_what_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FirecrackerUnfit, match="does not run"):
        await installed_version(tmp_path / "none")


def test_our_assets_come_first(program: Program, tmp_path: Path) -> None:
    path = program("x")
    assert find(tmp_path) == path
    assert len(digest(path)) == 64


def test_every_file_of_a_machine_has_a_place_in_the_jail() -> None:
    places = set(FirecrackerVmm(Path("/p"), "1.12.1").surroundings.files)
    drives = tuple(Drive(f"d{number}", Path(f"/d{number}"), number == 0) for number in range(16))
    spec = MachineSpec(64, 1, Path("/m"), Path("/k"), Path("/i"), KVM, drives)
    for start in (Boot(), FromImage(Path("/device"))):
        shown = _binds(spec, start)
        assert {bind.target for bind in shown} <= places
        by_source = {str(bind.source): bind.writable for bind in shown}
        assert by_source["/m"] is isinstance(start, Boot), "clones share the memory file"
        assert not by_source["/d0"]
        assert by_source["/d1"]


def test_a_template_is_the_processor_that_a_guest_sees() -> None:
    assert FirecrackerVmm(Path("/p"), "1.12.1").cpu_model(KVM) == "host"
    assert FirecrackerVmm(Path("/p"), "1.12.1", "T2S").cpu_model(KVM) == "T2S"
