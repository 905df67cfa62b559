"""What live MicroVMs use right now: processor, memory, bytes and requests, and how it went lately.

Read every `INTERVAL_S` from the kernel (``/proc`` of each VMM, which any user may read) and from
the edge's counters; a short ring for each MicroVM keeps the last `KEPT` samples in memory. `rows`
tells what has changed since a version, so that whoever looks all the time costs little.
"""

import asyncio
import math
import os
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from microvmd.edge.activity import Activity
from microvmd.messages.node_requests import Vmm
from microvmd.model.idle import idle_at
from microvmd.model.microvm import MicroVm, Phase
from microvmd.vmm.process import stat_fields

INTERVAL_S = 2.0
KEPT = 450
"""Samples of one MicroVM: 15 minutes."""
ASKED_AT_ONCE = 20
"""VMMs that the node is asked for in one look: it tells their pids once for each generation."""
COLUMNS = ("time", "cpu", "memory", "bytes", "requests")
"""Of a sample: seconds since the epoch, processors, own bytes, bytes and requests a second."""
MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Use:
    """Of one process: seconds of processor time so far, bytes that it shares with nobody."""

    cpu_s: float
    memory: int


@dataclass(frozen=True, slots=True)
class Row:
    """One MicroVM as lists show it. Times in seconds since the epoch, memory in MiB, ``cpu`` in
    hundredths of a processor; None is not known."""

    microvm: str
    state: str
    image: str
    version: str
    started_at: int
    expires_at: int
    idle_at: int | None
    baseline: int
    memory: int | None
    cpu: int | None
    rate: float | None
    """Requests a second."""


@dataclass(frozen=True, slots=True)
class Changes:
    """``rows`` that are new or have changed; ``microvms`` is who lives, newest first, None when
    those are the same as before."""

    version: str
    rows: list[Row]
    microvms: list[str] | None


@dataclass(slots=True)
class _Seen:
    """What is known of one MicroVM beside its record."""

    generation: int
    vmm: Vmm | None = None
    at: float = 0.0
    cpu_s: float | None = None
    bytes_total: int | None = None
    requests: int | None = None
    samples: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, now: float, use: Use | None, traffic: Activity | None) -> None:
        """A sample: rates are those since the one before, where both are known."""
        passed = now - self.at
        cpu_s = None if use is None else use.cpu_s
        bytes_total = None if traffic is None else traffic.bytes_total
        requests = None if traffic is None else traffic.requests
        cpu = _rate(self.cpu_s, cpu_s, passed)
        flow = _rate(self.bytes_total, bytes_total, passed)
        calls = _rate(self.requests, requests, passed)
        memory = math.nan if use is None else float(use.memory)
        self.samples.extend((now, cpu, memory, flow, calls))
        del self.samples[: -KEPT * len(COLUMNS)]
        self.at, self.cpu_s = now, cpu_s
        self.bytes_total, self.requests = bytes_total, requests

    def last(self, column: str) -> float | None:
        """Of the last sample; None where that is not known."""
        if not self.samples:
            return None
        value = self.samples[COLUMNS.index(column) - len(COLUMNS)]
        return None if math.isnan(value) else value


@dataclass(slots=True)
class _Shown:
    """What one account was shown."""

    rows: dict[str, Row] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    """By MicroVM the number of its last change."""
    members: int = 0
    """Number of the last change of who lives."""


class Live:
    """``live`` is every MicroVM that is not TERMINATED; ``traffic`` is by endpoint id and raises
    OSError when the edge does not answer; ``vmm_of`` asks the node."""

    def __init__(
        self,
        live: Callable[[], Iterable[MicroVm]],
        traffic: Callable[[], Awaitable[Mapping[str, Activity]]],
        vmm_of: Callable[[str], Awaitable[Vmm | None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._traffic = traffic
        self._vmm_of = vmm_of
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._shown: dict[str, _Shown] = {}
        self._number = 0
        # Another process of the service counts from 0 again.
        self._begin = f"{os.getpid()}-{int(clock())}"

    async def run(self) -> None:
        """For ever: a look every `INTERVAL_S`."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL_S)

    async def look(self) -> None:
        """One sample of each MicroVM."""
        live = {microvm.microvm_id: microvm for microvm in self._live()}
        for gone in self._seen.keys() - live.keys():
            del self._seen[gone]
        for microvm in live.values():
            self._seen.setdefault(microvm.microvm_id, _Seen(microvm.generation))
        await self._find_vmms(live)
        try:
            traffic: Mapping[str, Activity] | None = await self._traffic()
        except OSError:
            traffic = None
        vmms = {name: seen.vmm for name, seen in self._seen.items() if seen.vmm is not None}
        uses = await asyncio.to_thread(lambda: {n: use_of(vmm) for n, vmm in vmms.items()})
        now = self._clock()
        for name, microvm in live.items():
            # Before its first request an endpoint has no counters.
            counted = None if traffic is None else traffic.get(microvm.endpoint_id, _NOTHING)
            self._seen[name].add(now, uses.get(name), counted)

    def rows(self, account: str, after: str | None) -> Changes:
        """What has changed for ``account`` since ``after``, the version of an earlier answer; all
        when there is none, or another process gave it."""
        shown = self._refreshed(account)
        begin, _, number = (after or "").partition(".")
        known = int(number) if begin == self._begin and number.isdecimal() else -1
        rows = [row for name, row in shown.rows.items() if shown.changed[name] > known]
        members = list(shown.rows) if shown.members > known else None
        return Changes(f"{self._begin}.{self._number}", rows, members)

    def samples(self, microvm_id: str, after: float) -> list[list[float | None]]:
        """Those later than ``after``, each in the order of `COLUMNS`; None is not known."""
        seen = self._seen.get(microvm_id)
        if seen is None:
            return []
        width = len(COLUMNS)
        starts = range(0, len(seen.samples), width)
        return [
            [None if math.isnan(value) else value for value in seen.samples[start : start + width]]
            for start in starts
            if seen.samples[start] > after
        ]

    async def _find_vmms(self, live: Mapping[str, MicroVm]) -> None:
        asked = 0
        for name, microvm in live.items():
            seen = self._seen[name]
            if seen.generation != microvm.generation or not microvm.phase.on_node:
                seen.generation, seen.vmm, seen.cpu_s = microvm.generation, None, None
            wanted = seen.vmm is None and microvm.phase is Phase.RUNNING
            if wanted and asked < ASKED_AT_ONCE:
                asked += 1
                seen.vmm = await self._vmm_of(name)

    def _refreshed(self, account: str) -> _Shown:
        shown = self._shown.setdefault(account, _Shown())
        live = [microvm for microvm in self._live() if microvm.account == account]
        live.sort(key=lambda microvm: microvm.started_at, reverse=True)
        rows = {microvm.microvm_id: self._row(microvm) for microvm in live}
        changed = [name for name, row in rows.items() if shown.rows.get(name) != row]
        members = rows.keys() != shown.rows.keys()
        if changed or members:
            self._number += 1
            shown.changed |= dict.fromkeys(changed, self._number)
            for gone in shown.rows.keys() - rows.keys():
                del shown.changed[gone]
            shown.members = self._number if members else shown.members
            shown.rows = rows
        return shown

    def _row(self, microvm: MicroVm) -> Row:
        seen = self._seen.get(microvm.microvm_id) or _Seen(microvm.generation)
        running = microvm.phase is Phase.RUNNING
        memory, cpu, rate = (
            seen.last(column) if running else None for column in ("memory", "cpu", "requests")
        )
        due = idle_at(microvm)
        return Row(
            microvm=microvm.microvm_id,
            state=microvm.state.value,
            image=microvm.image_arn.rpartition(":")[2],
            version=microvm.image_version,
            started_at=int(microvm.started_at),
            expires_at=int(microvm.expires_at),
            idle_at=None if due is None else int(due),
            baseline=microvm.memory_mib,
            memory=None if memory is None else round(memory / MIB),
            cpu=None if cpu is None else round(cpu * 100),
            rate=None if rate is None else round(rate, 1),
        )


_NOTHING = Activity(0, 0)


def _rate(before: float | None, after: float | None, seconds: float) -> float:
    """A second; NaN when it is not known. A counter that went back has begun again."""
    if before is None or after is None or seconds <= 0:
        return math.nan
    return max(0.0, after - before) / seconds


def use_of(vmm: Vmm) -> Use | None:
    """What a VMM used; None when it is gone. Pages of the image that it has not changed are shared
    by all MicroVMs of the image, and not counted."""
    try:
        stat = stat_fields(vmm.pid)
        resident, shared = Path(f"/proc/{vmm.pid}/statm").read_text().split()[1:3]
    except OSError:
        return None
    if int(stat[19]) != vmm.start_time:
        return None
    ticks = int(stat[11]) + int(stat[12])
    return Use(ticks / _TICKS, (int(resident) - int(shared)) * _PAGE)


def shown(changes: Changes) -> dict[str, object]:
    """As JSON has it."""
    return asdict(changes)
