"""Which hierarchy limits what, and what is written there."""

import os
from pathlib import Path

import pytest

from microvmd.node.cgroup import (
    Cgroup,
    CgroupUnavailable,
    Hierarchy,
    Limits,
    find_hierarchies,
    names,
    remove_empty,
)

LIMITS = Limits(memory_bytes=1 << 30, pids=70)


def _mounts(tmp_path: Path, *lines: str) -> Path:
    mounts = tmp_path / "mounts"
    mounts.write_text("".join(f"{line.format(root=tmp_path)}\n" for line in lines))
    return mounts


def _unified(tmp_path: Path, controllers: str) -> Path:
    root = tmp_path / "unified"
    root.mkdir()
    (root / "cgroup.controllers").write_text(controllers)
    return root


def test_version_2_is_enough_alone(tmp_path: Path) -> None:
    root = _unified(tmp_path, "cpu io memory pids\n")
    mounts = _mounts(tmp_path, "proc /proc proc rw 0 0", "c {root}/unified cgroup2 rw 0 0")
    assert find_hierarchies(mounts) == (Hierarchy(root, 2, ("cpu", "io", "memory", "pids")),)


def test_hybrid_takes_from_version_1_what_is_missing(tmp_path: Path) -> None:
    root = _unified(tmp_path, "pids\n")
    mounts = _mounts(
        tmp_path,
        "c {root}/memory cgroup rw,relatime,memory 0 0",
        "c {root}/pids cgroup rw,pids 0 0",
        "c {root}/cpu cgroup rw,cpu,cpuacct 0 0",
        "c {root}/blkio cgroup rw,blkio 0 0",
        "c {root}/unified cgroup2 rw 0 0",
    )
    assert find_hierarchies(mounts) == (
        Hierarchy(root, 2, ("pids",)),
        Hierarchy(tmp_path / "memory", 1, ("memory",)),
        Hierarchy(tmp_path / "cpu", 1, ("cpu",)),
        Hierarchy(tmp_path / "blkio", 1, ("io",)),
    )


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CgroupUnavailable, match="memory"):
        find_hierarchies(_mounts(tmp_path, "c {root}/pids cgroup rw,pids 0 0"))


SHARED = Limits(memory_bytes=1, pids=1, cpus=2.5, weight=400)
FAIR_FILES = {
    2: {
        "cpu.weight": "400",
        "cpu.max": "250000 100000",
        "io.weight": "default 400",
        "io.bfq.weight": "400",
    },
    1: {
        "cpu.shares": "4096",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "250000",
        "blkio.weight": "400",
        "blkio.bfq.weight": "400",
    },
}


@pytest.mark.parametrize("version", [1, 2])
def test_processors_and_disks_are_shared_as_far_as_the_kernel_can(
    tmp_path: Path, version: int
) -> None:
    group = Cgroup((Hierarchy(tmp_path, version, ("cpu", "io")),), "ours", "vm")
    directory = tmp_path / "ours" / "vm"
    group.create(SHARED)
    assert not {path.name for path in directory.iterdir()} & FAIR_FILES[version].keys()
    for name in FAIR_FILES[version]:
        (directory / name).touch()
    group.create(SHARED)
    written = {name: (directory / name).read_text() for name in FAIR_FILES[version]}
    assert written == FAIR_FILES[version]


def test_a_weight_that_the_kernel_refuses_stops_nothing(tmp_path: Path) -> None:
    group = Cgroup((Hierarchy(tmp_path, 1, ("cpu", "pids")),), "ours", "vm")
    (tmp_path / "ours" / "vm" / "cpu.shares").mkdir(parents=True)
    group.create(LIMITS)
    assert (tmp_path / "ours" / "vm" / "pids.max").read_text() == "70"


@pytest.mark.parametrize(
    ("version", "file", "each"), [(1, "cpu.shares", 1024), (2, "cpu.weight", 100)]
)
def test_all_together_weigh_as_a_process_on_each_processor(
    tmp_path: Path, version: int, file: str, each: int
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / file).touch()
    Cgroup((Hierarchy(tmp_path, version, ("cpu",)),), "ours", "vm").create(SHARED)
    assert (tmp_path / "ours" / file).read_text() == str(each * (os.cpu_count() or 1))


@pytest.mark.parametrize(("weight", "written"), [(1, "10"), (10_000, "1000")])
def test_weights_of_disks_stay_in_the_range_of_bfq(
    tmp_path: Path, weight: int, written: str
) -> None:
    directory = tmp_path / "ours" / "vm"
    directory.mkdir(parents=True)
    (directory / "blkio.bfq.weight").touch()
    group = Cgroup((Hierarchy(tmp_path, 1, ("io",)),), "ours", "vm")
    group.create(Limits(memory_bytes=1, pids=1, weight=weight))
    assert (directory / "blkio.bfq.weight").read_text() == written


def test_writes_the_limits_of_each_version(tmp_path: Path) -> None:
    two = Hierarchy(tmp_path / "two", 2, ("memory",))
    one = Hierarchy(tmp_path / "one", 1, ("pids",))
    group = Cgroup((two, one), "ours", "vm")
    group.create(LIMITS)
    assert (tmp_path / "two/ours/vm/memory.max").read_text() == str(1 << 30)
    assert (tmp_path / "two/ours/vm/memory.oom.group").read_text() == "1"
    assert (tmp_path / "one/ours/vm/pids.max").read_text() == "70"
    for above in ("two", "two/ours"):
        assert (tmp_path / above / "cgroup.subtree_control").read_text() == "+memory"
    assert [path.parent for path in group.procs_files] == [
        tmp_path / "two/ours/vm",
        tmp_path / "one/ours/vm",
    ]
    assert names((two, one), "ours") == {"vm"}
    assert names((two, one), "other") == set()


@pytest.mark.parametrize(("version", "file"), [(2, "memory.events"), (1, "memory.oom_control")])
def test_counts_oom_kills(tmp_path: Path, version: int, file: str) -> None:
    group = Cgroup((Hierarchy(tmp_path, version, ("memory",)),), "ours", "vm")
    assert group.oom_kills() == 0
    directory = tmp_path / "ours" / "vm"
    directory.mkdir(parents=True)
    (directory / file).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert group.oom_kills() == 3


def test_removes_the_group_of_all_groups_when_the_last_is_gone(tmp_path: Path) -> None:
    one, two = (Hierarchy(tmp_path / name, 2, ("memory",)) for name in ("one", "two"))
    (tmp_path / "one/ours/vm").mkdir(parents=True)
    remove_empty((one, two), "ours")
    assert (tmp_path / "one/ours/vm").exists()
    (tmp_path / "one/ours/vm").rmdir()
    remove_empty((one, two), "ours")
    assert list((tmp_path / "one").iterdir()) == []
