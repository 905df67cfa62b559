"""What the meter reads of the kernel's files, here and in a tree of the test's own."""

import os
from pathlib import Path

import pytest

from microvmd.node.capacity import NodeMeter
from microvmd.node.cgroup import Hierarchy
from microvmd.node.paths import NodePaths

MEMINFO = "MemTotal:       16384000 kB\nMemFree: 1 kB\nMemAvailable:    8192000 kB\nHugePages: 0\n"
MIB = 1 << 20
NO_LIMIT = str((1 << 63) - 4096)


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    found = NodePaths(tmp_path / "root")
    found.make()
    return found


class Reading:
    """A meter over files that the test writes."""

    def __init__(self, directory: Path, paths: NodePaths, version: int) -> None:
        self.root = directory / "cgroup"
        self.version = version
        self.now = 5.0
        (directory / "meminfo").write_text(MEMINFO)
        tree = (Hierarchy(self.root, version, ("memory",)),)
        self.meter = NodeMeter(paths, "ours", tree, directory / "meminfo", lambda: self.now)

    def write(self, group: str, limit: str | int, used_mib: int, inactive_mib: int = 0) -> None:
        names = ("memory.max", "memory.current", "inactive_file")
        if self.version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        directory = self.root / group
        directory.mkdir(parents=True, exist_ok=True)
        (directory / names[0]).write_text(f"{limit}\n")
        (directory / names[1]).write_text(f"{used_mib * MIB}\n")
        (directory / "memory.stat").write_text(f"x 1\n{names[2]} {inactive_mib * MIB}\n")

    def take(self, name: str, mib: int) -> None:
        directory = self.root / "ours" / name
        directory.mkdir(parents=True, exist_ok=True)
        key = "anon" if self.version == 2 else "total_rss"
        (directory / "memory.stat").write_text(f"{key} {mib * MIB}\n")


@pytest.fixture(params=[1, 2])
def reading(request: pytest.FixtureRequest, tmp_path: Path, paths: NodePaths) -> Reading:
    return Reading(tmp_path, paths, request.param)


def test_the_machine(reading: Reading, paths: NodePaths) -> None:
    machine = reading.meter.measure().machine
    assert (machine.memory_mib, machine.available_mib) == (16_000, 8000)
    assert 0 < machine.disk_free_mib <= machine.disk_mib
    assert (
        machine.disk_mib == os.statvfs(paths.root).f_blocks * os.statvfs(paths.root).f_frsize >> 20
    )


def test_a_group_that_leaves_less_than_the_machine(reading: Reading) -> None:
    reading.write("", 4000 * MIB, 3000, 500)
    reading.write("ours", "max" if reading.version == 2 else NO_LIMIT, 1)
    machine = reading.meter.measure().machine
    assert (machine.memory_mib, machine.available_mib) == (4000, 1500)


def test_a_group_over_its_limit_leaves_nothing(reading: Reading) -> None:
    reading.write("ours", 4000 * MIB, 5000)
    assert reading.meter.measure().machine.available_mib == 0


def test_a_group_that_leaves_more_does_not_count(reading: Reading) -> None:
    reading.write("ours", 64_000 * MIB, 1)
    machine = reading.meter.measure().machine
    assert (machine.memory_mib, machine.available_mib) == (16_000, 8000)


def test_memory_of_vmms_is_read_once_a_second(reading: Reading) -> None:
    reading.take("microvm-1", 40)
    assert reading.meter.measure().taken_mib == {"microvm-1": 40}
    reading.take("microvm-1", 90)
    reading.take("microvm-2", 7)
    reading.now += 0.9
    assert reading.meter.measure().taken_mib == {"microvm-1": 40}
    reading.now += 0.1
    assert reading.meter.measure().taken_mib == {"microvm-1": 90, "microvm-2": 7}


def test_a_group_that_was_made_before_its_microvm_counts_for_it(reading: Reading) -> None:
    reading.take("waiting-1", 40)
    reading.take("waiting-2", 17)
    reading.meter.owner_of = lambda name: {"waiting-1": "microvm-1"}.get(name, name)
    assert reading.meter.measure().taken_mib == {"microvm-1": 40, "waiting-2": 17}


def test_what_a_suspend_stored(reading: Reading, paths: NodePaths) -> None:
    assert reading.meter.stored_mib("microvm-1") == 0
    directory = paths.microvm("microvm-1").directory
    directory.mkdir()
    with (directory / "memory.diff").open("wb") as file:
        file.truncate(300 * MIB)
    assert reading.meter.stored_mib("microvm-1") == 300


def test_of_this_machine(paths: NodePaths) -> None:
    machine = NodeMeter(paths, "microvmd-nobody").measure().machine
    assert 0 < machine.available_mib <= machine.memory_mib
