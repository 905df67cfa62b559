"""The jail of a live VMM as the kernel shows it, by nothing that the node says about itself.

What `tests/vm/test_jail.py` sees of a small guest is not repeated; this is a MicroVM with network,
two disks and a guest agent, first run and then resumed.
"""

import ctypes
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.messages.node import (
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendMicrovm,
    Terminated,
)
from microvmd.node.cgroup import find_hierarchies
from microvmd.node.jail import OPEN_FILES, limits_for
from microvmd.node.jail_facts import FILTERS, ProcessFacts, flaws
from tests.nodelab import NodeLab, RunningNode, spec_of

pytestmark = [pytest.mark.security, pytest.mark.vm, pytest.mark.root, pytest.mark.anyio]

SLICE_NS = 200_000
SCHED_GETATTR = 315
"""Of x86-64."""
MEMORY_MIB = 2048
"""Four times what the image asks for: the peak of its size."""


async def test_no_flaws_after_a_run_and_after_a_resume(lab: NodeLab) -> None:
    async with lab.node() as node:
        spec = spec_of()
        await node.start(spec)
        await node.reports.next(Started)
        first = _check(node, spec.microvm_id)
        await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))
        await node.reports.next(Suspended)
        resumed = replace(spec, generation=2)
        await node.agent.send(ResumeMicrovm(resumed))
        await node.reports.next(Started)
        assert _check(node, spec.microvm_id) != first
        await node.terminate(resumed)
        await node.reports.next(Terminated)


def _check(node: RunningNode, microvm_id: str) -> int:
    record = node.equipment.vmm_of(node.equipment.paths.microvm(microvm_id))
    assert record is not None
    pid = record.identity.pid
    assert flaws(pid) == []
    facts = ProcessFacts(pid)
    assert int(facts.status()["Seccomp_filters"]) >= FILTERS
    limits = facts.limits()
    assert limits["Max open files"] == str(OPEN_FILES)
    assert limits["Max core file size"] == limits["Max locked memory"] == "0"
    _check_groups(facts, microvm_id)
    _check_slices(facts)
    _check_root(facts)
    _check_descriptors(facts)
    return pid


def _check_groups(facts: ProcessFacts, microvm_id: str) -> None:
    """It is in a group of its own in every hierarchy, with the limits of its size."""
    wanted = limits_for(MEMORY_MIB, 1)
    lines = (facts.place / "cgroup").read_text().splitlines()
    paths = {path for line in lines if (path := line.split(":", 2)[2]).endswith(microvm_id)}
    assert len(paths) == 1
    path = paths.pop().lstrip("/")
    values = {
        name: int((hierarchy.root / path / name).read_text())
        for hierarchy in find_hierarchies()
        for name in ("memory.limit_in_bytes", "memory.max", "pids.max")
        if (hierarchy.root / path / name).exists()
    }
    assert values.pop("pids.max") == wanted.pids
    assert list(values.values()) == [wanted.memory_bytes]


def _check_slices(facts: ProcessFacts) -> None:
    """Each thread of it gives way to one that wakes; kernels before 6.12 have no such slices."""
    if _slice(os.getpid()):
        threads = [int(thread.name) for thread in (facts.place / "task").iterdir()]
        assert {_slice(thread) for thread in threads} == {SLICE_NS}


def _slice(thread: int) -> int:
    """Nanoseconds, by sched_getattr(2): the 64 bits after size, policy, flags, nice, priority."""
    attributes = (ctypes.c_uint64 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(SCHED_GETATTR, thread, attributes, ctypes.sizeof(attributes), 0) == 0
    return int(attributes[3])


def _check_root(facts: ProcessFacts) -> None:
    """Nothing in it can be written or executed by its user but QEMU and libraries of root."""
    user = int(facts.status()["Uid"].split()[0])
    root = facts.place / "root"
    programs = []
    for directory, _, names in os.walk(root):
        for name in names:
            found = os.lstat(Path(directory) / name)
            assert not stat.S_ISLNK(found.st_mode)
            assert not stat.S_IMODE(found.st_mode) & 0o022, name
            if stat.S_ISCHR(found.st_mode):
                assert (found.st_uid, directory) == (user, f"{root}/dev")
                continue
            assert found.st_uid == 0, name
            programs.append(name)
    assert "qemu-system-x86_64" in programs
    assert not {"sh", "bash", "busybox", "ld.so.cache", "passwd"} & set(programs)


def _check_descriptors(facts: ProcessFacts) -> None:
    """Disks, device state, console, monitor, agent and tap; no directory, no file of the host."""
    files = sorted(Path(to).name for to, mode in facts.descriptors() if stat.S_ISREG(mode))
    own = {"overlay.qcow2", "disk.raw", "rootfs.erofs", "memory", "device"}
    assert {name.split(" ")[0] for name in files if not name.startswith("memfd:")} <= own
    assert [to for to, _ in facts.descriptors()].count("/dev/net/tun") == 1


def test_a_process_that_is_in_no_jail_has_every_flaw() -> None:
    found = " ".join(flaws(os.getpid()))
    for part in (
        "runs as users and groups 0",
        "has capabilities (CapEff",
        "may gain rights",
        "filters of system calls",
        "shares the net namespace",
        "sees the processes",
        "network interfaces",
        "something is mounted at /proc",
        "its root holds",
    ):
        assert part in found, found
