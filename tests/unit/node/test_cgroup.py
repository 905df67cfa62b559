"""Which hierarchy limits what, and what is written there."""

from pathlib import Path

import pytest

from microvmd.node.cgroup import (
    Cgroup,
    CgroupUnavailable,
    Hierarchy,
    Limits,
    find_hierarchies,
    names,
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
    assert find_hierarchies(mounts) == (Hierarchy(root, 2, ("memory", "pids")),)


def test_hybrid_takes_from_version_1_what_is_missing(tmp_path: Path) -> None:
    root = _unified(tmp_path, "pids\n")
    mounts = _mounts(
        tmp_path,
        "c {root}/memory cgroup rw,relatime,memory 0 0",
        "c {root}/pids cgroup rw,pids 0 0",
        "c {root}/unified cgroup2 rw 0 0",
    )
    assert find_hierarchies(mounts) == (
        Hierarchy(root, 2, ("pids",)),
        Hierarchy(tmp_path / "memory", 1, ("memory",)),
    )


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CgroupUnavailable, match="memory"):
        find_hierarchies(_mounts(tmp_path, "c {root}/pids cgroup rw,pids 0 0"))


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
