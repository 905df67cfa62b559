"""Measures the node: real free memory and disk, and what each VMM has of its own.

Free memory is the kernel's MemAvailable, or what the control groups above the VMMs leave where that
is less: in a container the machine's memory is not all ours.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from microvmd.messages.capacity import Measured
from microvmd.model.capacity import Machine
from microvmd.node.cgroup import Cgroup, Hierarchy, find_hierarchies, headroom, names
from microvmd.node.paths import NodePaths

MEMINFO = Path("/proc/meminfo")
FRESH_S = 1.0
"""How long readings of VMMs are used again: a run must not read a thousand files. One that has
grown meanwhile is counted twice, in the machine's memory and in what is promised, never not."""
MIB = 1 << 20


def available_bytes(
    tree: tuple[Hierarchy, ...], group: str, meminfo: Path = MEMINFO
) -> tuple[int, int]:
    """Memory that VMMs in `group` could have in all, and what of it is free."""
    lines = (line.split() for line in meminfo.read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    total, available = kib["MemTotal"] << 10, kib["MemAvailable"] << 10
    limit, left = headroom(tree, group)
    return min(total, limit or total), available if left is None else min(available, left)


@dataclass(slots=True)
class NodeMeter:
    """Implements ``messages.capacity.Meter``; of one thread. ``clock`` never goes back."""

    paths: NodePaths
    group: str
    tree: tuple[Hierarchy, ...] = field(default_factory=find_hierarchies)
    meminfo: Path = MEMINFO
    clock: Callable[[], float] = time.monotonic
    owner_of: Callable[[str], str] = str
    """Which MicroVM has the control group of this name."""
    _read_at: float | None = None
    _taken: Mapping[str, int] = field(default_factory=dict)

    def measure(self) -> Measured:
        return Measured(self._machine(), self._taken_mib())

    def stored_mib(self, microvm_id: str) -> int:
        """0 for a full snapshot: that one is mapped, not read."""
        try:
            return self.paths.microvm(microvm_id).suspend.diff.stat().st_size // MIB
        except FileNotFoundError:
            return 0

    def _machine(self) -> Machine:
        total, available = available_bytes(self.tree, self.group, self.meminfo)
        disk = shutil.disk_usage(self.paths.root)
        return Machine(
            memory_mib=total // MIB,
            available_mib=available // MIB,
            disk_mib=disk.total // MIB,
            disk_free_mib=disk.free // MIB,
        )

    def _taken_mib(self) -> Mapping[str, int]:
        now = self.clock()
        if self._read_at is None or now - self._read_at >= FRESH_S:
            self._taken = {
                self.owner_of(name): Cgroup(self.tree, self.group, name).private_bytes() // MIB
                for name in names(self.tree, self.group)
            }
            self._read_at = now
        return self._taken
