"""The life of one MicroVM on this node: one task, one AsyncExitStack.

Everything that a MicroVM holds (network, jail, VMM, guest connection) is entered into the stack of
its task, and leaving the stack is the only way anything is freed. When the service ends, the stack
is left with everything detached: the MicroVM goes on, and the next run of the node adopts it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import structlog

from microvmd.messages.keys import KeyRefused
from microvmd.messages.node import (
    AdoptMicrovm,
    Died,
    MicrovmSpec,
    Report,
    ResumeFailed,
    ResumeMicrovm,
    Started,
    StartMicrovm,
    Suspended,
    SuspendFailed,
    SuspendMicrovm,
    Terminated,
    TerminateMicrovm,
    Unfit,
)
from microvmd.messages.shell import ShellEnd
from microvmd.model.egress import Egress
from microvmd.model.hooks import HookAnswer, HookName, failure_reason, run_body
from microvmd.model.microvm import Phase
from microvmd.node.bring_up import Equipment, Running, adopt, bring_up, kept
from microvmd.node.guest import GuestFailed
from microvmd.node.jail import JailFailed, JailsExhausted, OutOfMemory
from microvmd.node.network import Network
from microvmd.node.paths import MicrovmFiles, remove
from microvmd.node.plain import NoRoom
from microvmd.node.pool import VmmPool
from microvmd.node.shell import Shells
from microvmd.node.slots import NetworkError
from microvmd.node.snapshot import SnapshotBroken, SnapshotForeign, load, read
from microvmd.node.timings import DISK, Timings
from microvmd.node.working import Hold, WorkingFiles
from microvmd.vmm.causes import ungrouped
from microvmd.vmm.console import tail
from microvmd.vmm.machine import MachineFailed, MachineFiles
from microvmd.vmm.process import ProcessFailed, ProcessGone

log = structlog.get_logger(__name__)

Reporter = Callable[[Report], Awaitable[None]]
Begin = StartMicrovm | ResumeMicrovm | AdoptMicrovm
Order = SuspendMicrovm | TerminateMicrovm

STARTS = 5
"""How often one MicroVM is started; its start may be what makes the node end each time."""

FAILURES = (
    MachineFailed,
    GuestFailed,
    KeyRefused,
    NoRoom,
    SnapshotBroken,
    SnapshotForeign,
    JailFailed,
    JailsExhausted,
    NetworkError,
    ProcessFailed,
    ProcessGone,
    OSError,
    TimeoutError,
)


class Ended(Exception):
    """The MicroVM cannot go on; the text is its stateReason."""


@dataclass(slots=True)
class MicrovmTask:
    """One generation of one MicroVM. ``orders`` is how the agent talks to it."""

    equipment: Equipment
    pool: VmmPool
    begin: Begin
    report: Reporter
    orders: asyncio.Queue[Order] = field(default_factory=asyncio.Queue)
    over: bool = False
    """The last report is out: orders come too late."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing of this generation is held any more."""
    shells: Shells = field(default_factory=Shells)
    network: Network | None = None
    """Once it is up."""

    @property
    def spec(self) -> MicrovmSpec:
        return self.begin.spec

    @property
    def files(self) -> MicrovmFiles:
        return self.equipment.paths.microvm(self.spec.microvm_id)

    async def change_egress(self, egress: Egress) -> None:
        """What it may reach from now on. Raises ProcessFailed."""
        self.begin = replace(self.begin, spec=replace(self.spec, egress=egress))
        if self.network is not None:
            await self.equipment.networks.change(self.network, egress)

    async def _is_up(self, running: Running) -> None:
        """What it may reach can have been changed while it came up."""
        self.network = running.network
        await self.equipment.networks.change(running.network, self.spec.egress)

    async def run(self) -> None:
        """Until the MicroVM is suspended or gone. Every way out sends exactly one last report."""
        try:
            await self._to_the_end()
        finally:
            self.over = True
            self.left.set()

    async def _to_the_end(self) -> None:
        last: Report | None = None
        try:
            async with AsyncExitStack() as stack:
                last = await self._live(stack)
        except (Ended, OutOfMemory) as end:
            last = self._died(str(end))
        except Exception as error:
            log.exception("microvm.failed")
            # What was decided stays so, whatever fails while the rest is taken down: a SUSPENDED
            # MicroVM must not lose its files because its network could not be removed.
            last = last or self._died(f"The MicroVM failed: {_reason(error)}")
        if isinstance(last, Died | Terminated | Unfit):
            await self._remove_files()
        if not isinstance(last, Suspended):
            await self.report(last)

    async def _remove_files(self) -> None:
        try:
            await asyncio.to_thread(remove, self.files.directory)
        except OSError:
            # The next start of the node sweeps what is left; the MicroVM is gone all the same.
            log.exception("microvm.files_left")

    async def _live(self, stack: AsyncExitStack) -> Report:
        hold = await stack.enter_async_context(self.equipment.vault.holding(self.spec.microvm_id))
        match self.begin:
            case StartMicrovm():
                begun: Running | Report = await self._start(stack, hold)
            case ResumeMicrovm():
                begun = await self._resume_or_not(stack, hold)
            case AdoptMicrovm(phase=Phase.PENDING):
                begun = await self._start_again(stack, hold)
            case AdoptMicrovm(phase=phase):
                with kept(hold):
                    begun = await self._adopt(stack, hold, phase)
        return await self._watch(begun) if isinstance(begun, Running) else begun

    async def _resume_or_not(self, stack: AsyncExitStack, hold: Hold) -> Running | ResumeFailed:
        try:
            return await self._resume(stack, hold)
        except Exception as error:
            if not self.files.suspended:
                raise
            log.exception("microvm.resume_failed")
            return self._resume_failed(f"Resume failed: {_reason(error)}")

    async def _adopt(self, stack: AsyncExitStack, hold: Hold, phase: Phase) -> Running | Report:
        settled = await self._settled(phase)
        if settled is not None:
            return settled
        try:
            running = await adopt(
                stack, self.equipment, self.spec, hold, serving=phase is not Phase.RESUMING
            )
            with running.kept():
                await self._is_up(running)
        except (SnapshotBroken, SnapshotForeign):
            await self.equipment.end_vmm(self.files)
            raise
        with running.kept():
            if phase is Phase.RESUMING:
                failed = await self._resume_hook(running, Timings())
                if failed is not None:
                    return failed
            self.shells.begin(running.guest)
            await self.report(self._adopted(phase, running))
        return running

    async def _start_again(self, stack: AsyncExitStack, hold: Hold) -> Running | Unfit:
        """A start that a restart cut off. Nobody was let in yet: what it made is thrown away, also
        a VMM in which /run was called, for nobody knows with what answer."""
        attempt = self.files.attempt + 1
        await self.equipment.end_vmm(self.files)
        if attempt > STARTS:
            raise Ended(f"The MicroVM was lost: {STARTS} starts were interrupted by a restart.")
        log.info("microvm.start_again", attempt=attempt)
        await asyncio.to_thread(remove, self.files.directory)
        await self.equipment.vault.clear(hold)
        return await self._start(stack, hold, attempt)

    async def _start(self, stack: AsyncExitStack, hold: Hold, attempt: int = 1) -> Running | Unfit:
        timings = Timings()
        with timings.step("files"):
            self.files.directory.mkdir(mode=0o700)
            if attempt > 1:
                self.files.attempts.write_text(str(attempt))
            try:
                working = await self.equipment.vault.started(hold, self.spec)
            except SnapshotForeign as foreign:
                log.info("microvm.unfit", reason=foreign.difference)
                return await self._unfit(foreign.difference)
        with self.pool.starting():
            running = await self._claimed(stack, working, timings) if attempt == 1 else None
            if running is None:
                running = await self._from_nothing(stack, working, timings)
        await self._is_up(running)
        if self.spec.hooks.enabled(HookName.RUN):
            body = run_body(self.spec.microvm_id, self.spec.run_hook_payload)
            with timings.step("guest.run_hook"):
                answer = await self._hook(running, HookName.RUN, body)
            if not answer.ok:
                raise Ended(failure_reason(HookName.RUN, answer))
        self.shells.begin(running.guest)
        await self.report(self._started(running, timings))
        return running

    async def _unfit(self, reason: str) -> Unfit:
        fits = await asyncio.to_thread(self.equipment.vault.fitting, self.spec.version)
        return Unfit(self.spec.microvm_id, self.spec.generation, reason, fits)

    async def _from_nothing(
        self, stack: AsyncExitStack, working: WorkingFiles, timings: Timings
    ) -> Running:
        image = working.image.files
        with timings.step(DISK):
            await self.equipment.create_disk(working.suspend.overlay, image)
        return await bring_up(stack, self.equipment, self.spec, working, image.start, timings)

    async def _claimed(
        self, stack: AsyncExitStack, working: WorkingFiles, timings: Timings
    ) -> Running | None:
        """Up in a VMM that waited; None when there is none, or it was no good."""
        own = await stack.enter_async_context(AsyncExitStack())
        start = working.image.files.start
        try:
            claimed = self.pool.claim(own, self.equipment, self.spec, working)
            if claimed is None:
                return None
            return await bring_up(
                own, self.equipment, self.spec, working, start, timings, claimed=claimed
            )
        except (MachineFailed, NetworkError, ProcessFailed, OSError) as error:
            # Nobody was let in yet, so that another VMM can take its place.
            log.warning("microvm.claim_failed", error=str(error))
        await own.aclose()
        await asyncio.to_thread(remove, self.files.directory)
        self.files.directory.mkdir(mode=0o700)
        return None

    async def _resume(self, stack: AsyncExitStack, hold: Hold) -> Running | ResumeFailed:
        timings = Timings()
        with timings.step("snapshot"):
            manifest = load(self.files.directory, stamp=self.equipment.stamp)
            working = await self.equipment.vault.resumed(hold, self.spec)
        with self.pool.starting():
            running = await bring_up(
                stack,
                self.equipment,
                self.spec,
                working,
                working.suspend.start(manifest),
                timings,
                # From here on the disk runs ahead of the snapshot, which must never be used again.
                before_cont=working.retire,
            )
        with running.kept():
            await self._is_up(running)
            failed = await self._resume_hook(running, timings)
            if failed is not None:
                return failed
            self.shells.begin(running.guest)
            await self.report(self._started(running, timings))
        return running

    async def _resume_hook(self, running: Running, timings: Timings) -> ResumeFailed | None:
        """Call /resume; a MicroVM that refuses it is suspended again."""
        if not self.spec.hooks.enabled(HookName.RESUME):
            return None
        with timings.step("guest.resume_hook"):
            answer = await self._hook(running, HookName.RESUME)
        if answer.ok:
            return None
        await self._store(running, Timings())
        return self._resume_failed(failure_reason(HookName.RESUME, answer))

    async def _watch(self, running: Running) -> Report:
        """Serve orders until one ends the MicroVM, or it ends by itself."""
        with running.kept(), self.shells.ending():
            try:
                return await self._serve(running)
            except Ended as end:
                return self._died(str(end))

    async def _serve(self, running: Running) -> Report:
        while True:
            order = await self._next_order(running)
            if order.generation != self.spec.generation:
                continue
            if isinstance(order, TerminateMicrovm):
                self.shells.end(ShellEnd.TERMINATED)
                await self._say_goodbye(running)
                await running.machine.kill()
                return Terminated(self.spec.microvm_id, self.spec.generation)
            last = await self._suspend(running)
            if last is not None:
                return last

    async def _next_order(self, running: Running) -> Order:
        """The next order; raise Ended when the application or the VMM ends first."""
        with ungrouped():
            async with asyncio.TaskGroup() as tasks:
                order = tasks.create_task(self.orders.get())
                ended = tasks.create_task(running.end())
                await asyncio.wait({order, ended}, return_when=asyncio.FIRST_COMPLETED)
                order.cancel()
                ended.cancel()
        if order.cancelled():
            raise Ended(ended.result())
        return order.result()

    async def _suspend(self, running: Running) -> Suspended | None:
        """None when it failed and was taken back."""
        timings = Timings()
        self.shells.end(ShellEnd.SUSPENDED)
        if self.spec.hooks.enabled(HookName.SUSPEND):
            with timings.step("guest.suspend_hook"):
                answer = await self._hook(running, HookName.SUSPEND)
            if not answer.ok:
                # Recorded: a failed /suspend terminates the MicroVM.
                raise Ended(failure_reason(HookName.SUSPEND, answer))
        with timings.step("guest.drain"):
            await self._drain(running)
        try:
            stored = await self._store(running, timings)
        except (MachineFailed, SnapshotBroken, KeyRefused, OSError) as error:
            running.files.retire()
            await running.machine.cont()
            log.exception("microvm.suspend_failed")
            if not isinstance(error, KeyRefused):  # which comes before anything was stopped
                await running.mend()
            self.shells.begin(running.guest)
            await self.report(
                SuspendFailed(
                    self.spec.microvm_id,
                    self.spec.generation,
                    f"Suspend failed: {_reason(error)}",
                    running.network.edge_address,
                )
            )
            return None
        suspended = Suspended(self.spec.microvm_id, self.spec.generation, timings.ended(), stored)
        # Before the stack is left: SUSPENDED is true when the snapshot is durable and the VMM is
        # gone; taking the network down may come later.
        self.over = True
        await self.report(suspended)
        return suspended

    async def _store(self, running: Running, timings: Timings) -> int:
        """The suspend snapshot, durable; then the VMM ends. Gives its bytes on disk."""
        files = running.files.suspend
        async with running.files.saving() as commit:
            with timings.step("save"):
                stats = await running.machine.suspend(files.device, files.diff)
            with timings.step("manifest"):
                stored = await commit(stats)
        with timings.step("kill"):
            await running.machine.kill()
        await self.equipment.vault.clear(running.files.hold)
        return stored

    async def _drain(self, running: Running) -> None:
        """What stays in the guest is told after the resume; no reason to keep from suspending."""
        try:
            await running.guest.drain()
        except GuestFailed as error:
            log.warning("microvm.drain", error=str(error))

    async def _hook(self, running: Running, name: HookName, body: str | None = None) -> HookAnswer:
        hooks = self.spec.hooks
        return await running.guest.hook(
            name, hooks.effective_port, timeout_s=hooks.timeout_s(name), body=body
        )

    async def _say_goodbye(self, running: Running) -> None:
        if not self.spec.hooks.enabled(HookName.TERMINATE):
            return
        try:
            answer = await self._hook(running, HookName.TERMINATE)
        except (GuestFailed, TimeoutError) as error:
            log.warning("microvm.terminate_hook", error=str(error))
            return
        if not answer.ok:
            log.warning("microvm.terminate_hook", answer=answer)

    async def _settled(self, phase: Phase) -> Report | None:
        """What an interrupted change left, where there is no VMM to adopt."""
        intact = self.files.suspended
        if intact and phase in (Phase.RESUMING, Phase.SUSPENDING):
            # A VMM that never ran, or whose snapshot counts already: it must not run on beside it.
            await self.equipment.end_vmm(self.files)
        if self.equipment.vmm_of(self.files) is not None:
            return None
        if phase is Phase.SUSPENDING and intact:
            suspended = Suspended(
                self.spec.microvm_id, self.spec.generation, stored_bytes=self._stored_bytes()
            )
            self.over = True
            await self.report(suspended)
            return suspended
        if phase is Phase.RESUMING and intact:
            return self._resume_failed("The resume was interrupted by a restart.")
        # All that is left of why: the directory goes next.
        sockets = MachineFiles(self.files.directory)
        said = {"vmm_log": tail(sockets.vmm_log), "serial_log": tail(sockets.serial_log)}
        log.warning("microvm.lost", **said)
        raise Ended("The MicroVM was lost: its VMM ended while the service was down.")

    def _stored_bytes(self) -> int:
        try:
            return read(self.files.directory).stored_bytes
        except SnapshotBroken:
            # Told by the resume that needs it, in words.
            return 0

    def _adopted(self, phase: Phase, running: Running) -> Report:
        if phase is Phase.SUSPENDING:
            return SuspendFailed(
                self.spec.microvm_id,
                self.spec.generation,
                "The suspend was interrupted by a restart.",
                running.network.edge_address,
            )
        return Started(self.spec.microvm_id, self.spec.generation, running.network.edge_address)

    def _started(self, running: Running, timings: Timings) -> Started:
        return Started(
            self.spec.microvm_id,
            self.spec.generation,
            running.network.edge_address,
            timings.ended(),
            timings.offsets,
            timings.begun,
            self.spec.cause,
        )

    def _died(self, reason: str) -> Died:
        return Died(self.spec.microvm_id, self.spec.generation, reason)

    def _resume_failed(self, reason: str) -> ResumeFailed:
        return ResumeFailed(self.spec.microvm_id, self.spec.generation, reason)


def _reason(error: Exception) -> str:
    """What the caller is told: the first line of what can go wrong, and no internals."""
    if not isinstance(error, FAILURES):
        return "an internal error; the service's log has it"
    return (str(error) or type(error).__name__).splitlines()[0][:500]
