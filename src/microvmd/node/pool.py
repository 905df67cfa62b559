"""VMMs that wait for a guest, so that a run need not start one first.

A waiting VMM has what a MicroVM has but the guest: a directory (below ``tmp``) with its record,
sockets and an empty disk, a network, a jail and the process, all on a stack of its own. Nothing in
it is of any MicroVM: what has a name has one that nobody else has had or will have. Where that
saves time, the guest is in it too, as the image snapshot has it: it has not run since.

Each has a task that makes it, holds it and ends it: to cancel that task is to end what waits, and
however often whoever waits for that is cancelled, the pool's task group goes only after it.

A claim takes one off the list in one step, with no await in it, so that no two callers get the
same. One rename makes its directory the MicroVM's, record included, and what its stack holds
becomes a part of that of the MicroVM's task. From then on the pool knows nothing of it.

One task keeps as many waiting as `model/pool.py` says, and starts of MicroVMs come before it. How
the node ends makes no difference: what waits is ended with the pool, or swept by the next node like
all that no record owns.
"""

import asyncio
import contextlib
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from microvmd.messages.node import MicrovmSpec, VersionKey
from microvmd.model.pool import plan, recent, room
from microvmd.node.bring_up import Equipment, Prepared, prepare
from microvmd.node.jail import JailFailed, JailsExhausted, OutOfMemory
from microvmd.node.paths import remove
from microvmd.node.slots import NetworkError
from microvmd.node.snapshot import SuspendFiles
from microvmd.node.working import Image, WorkingFiles
from microvmd.vmm.machine import AcceleratorKind, MachineFailed, MachineFiles
from microvmd.vmm.process import ProcessFailed, ProcessGone, ProcessStuck
from microvmd.vmm.shield import shielded

log = structlog.get_logger(__name__)

WAITING = "waiting-"
"""Begin of the names of directories and jails."""
MIB = 1 << 20
FIRST_COST_MIB = 32
"""What one takes, before any has been measured."""
LOOK_EVERY = 5.0
"""Seconds between two looks at the machine's memory and at demand that grows old."""
CLOSE_LIMIT = 120.0
FAILURES = (
    MachineFailed,
    JailFailed,
    JailsExhausted,
    OutOfMemory,
    NetworkError,
    ProcessFailed,
    ProcessGone,
    ProcessStuck,
    OSError,
    TimeoutError,
)
"""Reasons to go on without one; a run then starts its own VMM, and says what is wrong."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One that nobody has claimed."""

    prepared: Prepared
    directory: Path
    stack: AsyncExitStack
    holder: asyncio.Task[None]
    """Ends it when it is cancelled, or when the VMM ends."""


@dataclass(slots=True)
class Demand:
    """When MicroVMs of a version were started lately, from which files, under which VMM."""

    equipment: Equipment
    image: Image
    starts: list[float] = field(default_factory=list)
    waiting: deque[Waiting] = field(default_factory=deque)
    """The oldest first."""
    holders: set[asyncio.Task[None]] = field(default_factory=set)
    """Of what waits, of what is being made, and of what is being ended."""


class VmmPool:
    """A context manager; leaving it ends what waits. Of one task group: no locks are needed where
    nothing is awaited."""

    def __init__(self, equipment: Equipment, clock: Callable[[], float] = time.monotonic) -> None:
        self._equipment = equipment
        self._rules = equipment.pool
        self._clock = clock
        self._demand: dict[VersionKey, Demand] = {}
        self._starting = 0
        self._over = False
        self._at_once = max(1, equipment.host_cpus // 2)
        """How many starts leave processors for us."""
        self._cost_mib = FIRST_COST_MIB
        self._changed = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._tasks)
            stack.push_async_callback(self._empty)
            if self._rules.memory_mib:
                keeping = self._tasks.create_task(self._keep(), name="pool")
                stack.callback(self._end, keeping)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not handed on: the task group would wrap the body's error in an ExceptionGroup.
        await self._stack.aclose()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return sum(len(demand.waiting) for demand in self._demand.values())

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Around the start of a MicroVM: nothing is made ready beside it, where that would take
        its processors."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1
            self._changed.set()

    def claim(
        self,
        stack: AsyncExitStack,
        equipment: Equipment,
        spec: MicrovmSpec,
        working: WorkingFiles,
    ) -> Prepared | None:
        """A VMM that waits for a guest of this image, if there is one; ``stack`` owns it then.

        ``equipment`` is that of the image. The MicroVM's directory must be empty; it is replaced.
        Raises OSError.
        """
        if not self._rules.memory_mib or working.in_memory or working.image.manifest.envelope:
            # Plain files of an encrypted image are there only for MicroVMs that run.
            return None
        waiting = self._next(spec.version, equipment, working.image)
        if waiting is None:
            return None
        stack.push_async_exit(waiting.stack.pop_all())
        waiting.holder.cancel()
        os.rename(waiting.directory, equipment.paths.microvm(spec.microvm_id).directory)
        equipment.jails.give(waiting.prepared.jail, spec.microvm_id)
        log.info("pool.claimed", name=waiting.directory.name, left=self.waiting)
        return waiting.prepared

    async def drop(self, version: VersionKey) -> None:
        """Nothing of this snapshot will be started: end what waits, also what is being made."""
        demand = self._demand.pop(version, None)
        if demand is not None:
            await _end_all(demand.holders)
            self._changed.set()

    # -- inside ------------------------------------------------------------------------------

    def _next(self, version: VersionKey, equipment: Equipment, image: Image) -> Waiting | None:
        """Notes the demand. Takes off the list what has ended, or is of other files: a version
        whose build was repeated."""
        demand = self._demand.get(version)
        if demand is None or demand.image != image:
            for holder in demand.holders if demand is not None else ():
                holder.cancel()
            demand = self._demand[version] = Demand(equipment, image)
        demand.starts.append(self._clock())
        self._changed.set()
        while demand.waiting:
            waiting = demand.waiting.popleft()
            if waiting.prepared.vmm.identity.alive():
                return waiting
            waiting.holder.cancel()
        return None

    def _end(self, keeping: asyncio.Task[None]) -> None:
        # Told twice: a cancellation may be lost in what the task waits for, and the node must end.
        self._over = True
        keeping.cancel()

    async def _keep(self) -> None:
        """Until the pool ends."""
        while not self._over:
            self._changed.clear()
            try:
                await self._settle()
            except Exception:
                log.exception("pool.crashed")  # it ends no MicroVM
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._changed.wait()

    async def _settle(self) -> None:
        """End what is too much, then make what is missing, one after another."""
        planned = await self._planned()
        for version, demand in list(self._demand.items()):
            while len(demand.waiting) > planned.get(version, 0):
                await _end_all({demand.waiting.pop().holder})
            if not demand.starts and self._demand.get(version) is demand:
                await self.drop(version)
        while (
            not self._over
            and self._starting < self._at_once
            and (missing := self._missing(planned)) is not None
        ):
            if not await self._make(missing):
                break
            planned = await self._planned()

    async def _planned(self) -> dict[VersionKey, int]:
        now = self._clock()
        for demand in self._demand.values():
            demand.starts[:] = recent(demand.starts, now, self._rules)
        if not self._demand:
            return {}
        available = await asyncio.to_thread(self._equipment.jails.available_mib)
        most = room(
            self._rules,
            cost_mib=self._cost_mib,
            taken_mib=self.waiting * self._cost_mib,
            available_mib=available,
        )
        starts = {version: demand.starts for version, demand in self._demand.items()}
        return plan(starts, now, self._rules, most)

    def _missing(self, planned: dict[VersionKey, int]) -> VersionKey | None:
        """Which version is to have one more; who has none comes first."""
        short = {
            version: len(self._demand[version].waiting)
            for version, count in planned.items()
            if version in self._demand and len(self._demand[version].waiting) < count
        }
        return min(short, key=lambda version: short[version], default=None)

    async def _make(self, version: VersionKey) -> bool:
        """One more, if it can be made."""
        demand = self._demand[version]
        settled: asyncio.Future[Waiting | None] = asyncio.get_running_loop().create_future()

        def over(holder: asyncio.Task[None]) -> None:
            """Also where it was cancelled before its first step."""
            demand.holders.discard(holder)
            if not settled.done():
                settled.set_result(None)

        holder = self._tasks.create_task(self._hold(version, demand, settled))
        demand.holders.add(holder)
        holder.add_done_callback(over)
        waiting = await settled
        if waiting is None:
            return False
        taken = await asyncio.to_thread(waiting.prepared.jail.private_bytes)
        self._cost_mib = max(1, -(-taken // MIB))
        return True

    async def _hold(
        self, version: VersionKey, demand: Demand, settled: asyncio.Future[Waiting | None]
    ) -> None:
        """Make one, have it until it is claimed, and end it otherwise."""
        name, stack = f"{WAITING}{uuid.uuid4().hex[:16]}", AsyncExitStack()
        try:
            waiting = await self._made(stack, name, demand.equipment, demand.image)
            # Asked as well: a cancellation may be lost in what it takes to make one.
            if self._over or self._demand.get(version) is not demand:
                return
            demand.waiting.append(waiting)
            if not settled.done():
                settled.set_result(waiting)
            await waiting.prepared.vmm.ended()
            if waiting in demand.waiting:
                demand.waiting.remove(waiting)
                log.warning("pool.vmm_ended", name=name)
                self._changed.set()
        except FAILURES as error:
            log.warning("pool.failed", error=str(error))
        except Exception:
            log.exception("pool.crashed")  # it ends no MicroVM
        finally:
            await _end(stack, name)

    async def _made(
        self, stack: AsyncExitStack, name: str, equipment: Equipment, image: Image
    ) -> Waiting:
        directory = equipment.paths.tmp / name
        # After a claim nothing has this name.
        stack.push_async_callback(_remove, directory)
        directory.mkdir(mode=0o700)
        overlay = SuspendFiles(directory).overlay
        await equipment.create_disk(overlay, image.files)
        spec = equipment.clone_spec(image.files, image.manifest, overlay)
        network = await stack.enter_async_context(equipment.networks.network())
        prepared = await prepare(
            stack, equipment, network, name, spec, directory, image.files.start
        )
        vmm = equipment.vmm
        kvm = equipment.accelerator.kind is AcceleratorKind.KVM
        if self._rules.restores(kvm=kvm, stops_clocks=vmm.stops_clocks):
            await prepared.vmm.load(spec, MachineFiles(directory))
        holder = asyncio.current_task()
        assert holder is not None
        return Waiting(prepared, directory, stack, holder)

    async def _empty(self) -> None:
        for version in list(self._demand):
            await self.drop(version)


async def _end_all(holders: Iterable[asyncio.Task[None]]) -> None:
    """They go on to their end also when we are cancelled."""
    ending = list(holders)
    for holder in ending:
        holder.cancel()
    if ending:
        await asyncio.wait(ending)


async def _end(stack: AsyncExitStack, name: str) -> None:
    """What a claim has not taken."""
    try:
        await shielded(stack.aclose(), limit=CLOSE_LIMIT)
    except Exception:
        # The next node sweeps what is left.
        log.exception("pool.not_ended", name=name)


async def _remove(directory: Path) -> None:
    await shielded(asyncio.to_thread(remove, directory), limit=CLOSE_LIMIT)
