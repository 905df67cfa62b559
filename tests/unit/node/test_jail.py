"""User ids are handed out once; the jailer's plan follows from the command."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.node.cgroup import Hierarchy
from microvmd.node.jail import (
    Jails,
    JailSettings,
    JailsExhausted,
    OutOfMemory,
    limits_for,
    limits_of,
)
from microvmd.vmm.machine import Accelerator, AcceleratorKind, Bind, Drive, MachineSpec, VmmCommand

pytestmark = pytest.mark.anyio

LIMITS = limits_for(512, 2)
TCG = AcceleratorKind.TCG


@pytest.fixture
def jails(tmp_path: Path) -> Jails:
    settings = JailSettings(tmp_path / "jailer", tmp_path / "cache", "ours", first_uid=900, slots=2)
    tree = (Hierarchy(tmp_path / "tree", 1, ("memory", "pids")),)
    return Jails(settings, tmp_path / "root", tree)


async def test_user_ids_are_never_shared(jails: Jails) -> None:
    async with jails.jail("a", LIMITS, TCG) as first:
        async with jails.jail("b", LIMITS, TCG) as second:
            assert (first.uid, second.uid) == (900, 901)
            with pytest.raises(JailsExhausted):
                await jails.jail("c", LIMITS, TCG).__aenter__()
        async with jails.jail("d", LIMITS, TCG) as third:
            assert third.uid == 901


async def test_the_plan_of_the_jailer(jails: Jails) -> None:
    binds = (Bind(Path("/i/memory"), "/machine/memory", writable=True), Bind(Path("/k"), "/kernel"))
    command = VmmCommand(("/usr/bin/q", "-S"), (7, 9), binds, output=1)
    async with jails.jail("a", LIMITS, TCG) as jail:
        line = " ".join(jail._jailer_argv(command, 5))
    async with jails.jail("a", LIMITS, AcceleratorKind.KVM) as jail:
        assert "--device kvm 10 232" in " ".join(jail._jailer_argv(command, 5))
    assert "--uid 900 --gid 900 --report-fd 5" in line
    assert "--bind-writable /i/memory /machine/memory --bind /k /kernel" in line
    assert "--keep-fd 7 --keep-fd 9 -- /usr/bin/q -S" in line
    assert "kvm" not in line
    assert jail.locate(binds[1]) == "/kernel"


async def test_files_are_bounded(jails: Jails) -> None:
    command = VmmCommand(("/usr/bin/q",), (), (), output=1)
    async with jails.jail("a", LIMITS, TCG) as jail:
        assert "fsize" not in jail._jailer_argv(command, 5)
    async with jails.jail("a", replace(LIMITS, file_bytes=77), TCG) as jail:
        assert "--rlimit fsize 77" in " ".join(jail._jailer_argv(command, 5))


async def test_what_fails_for_lack_of_memory_says_so(jails: Jails, tmp_path: Path) -> None:
    async with jails.jail("a", LIMITS, TCG) as jail:
        with pytest.raises(KeyError), jail.explained():
            raise KeyError("something")
        events = tmp_path / "tree" / "ours" / "a" / "memory.oom_control"
        events.write_text("oom_kill 1\n")
        with pytest.raises(OutOfMemory) as told, jail.explained():
            raise KeyError("something")
        assert str(told.value) == "The MicroVM was ended because it ran out of memory."
        assert isinstance(told.value.__cause__, KeyError)
        events.unlink()


def test_limits_of_a_machine(tmp_path: Path) -> None:
    disk, overlay, rootfs = (tmp_path / name for name in ("disk", "overlay", "rootfs"))
    overlay.touch()
    for path, gib in ((disk, 8), (rootfs, 900)):
        path.touch()
        os.truncate(path, gib << 30)
    spec = MachineSpec(
        memory_mib=2048,
        vcpus=3,
        memory_file=tmp_path / "memory",
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        accelerator=Accelerator(TCG, "tests", 1),
        drives=(
            Drive("rootfs", rootfs, read_only=True),
            Drive("disk", overlay, backing=disk),
        ),
    )
    limits = limits_of(spec, files=5)
    assert limits.memory_bytes == limits_for(2048, 3).memory_bytes + 5
    assert (limits.cpus, limits.weight) == (3.5, 25)
    assert limits.file_bytes is not None
    assert 9 << 30 < limits.file_bytes < 10 << 30, "what is written must fit into it"
    larger = limits_of(replace(spec, memory_mib=32 << 10))
    assert larger.file_bytes is not None
    assert larger.file_bytes > 32 << 30, "a whole memory may be written to a file"


def test_limits_leave_room_for_the_vmm() -> None:
    assert limits_for(2048, 1).memory_bytes > 2048 << 20
    assert limits_for(512, 16).pids == limits_for(512, 1).pids + 15
