"""User ids are handed out once; the jailer's plan follows from the command."""

from pathlib import Path

import pytest

from microvmd.node.cgroup import Hierarchy
from microvmd.node.jail import Jails, JailSettings, JailsExhausted, limits_for
from microvmd.vmm.machine import AcceleratorKind, Bind, VmmCommand

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


def test_limits_leave_room_for_the_vmm() -> None:
    assert limits_for(2048, 1).memory_bytes > 2048 << 20
    assert limits_for(512, 16).pids == limits_for(512, 1).pids + 15
