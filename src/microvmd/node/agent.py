"""The node agent: takes commands, owns one task for each MicroVM and each build, sends reports.

It decides nothing. A command whose MicroVM or generation it does not hold is answered by a report
of what is, or dropped.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import structlog

from microvmd.messages.node import (
    AdoptMicrovm,
    BuildFailed,
    BuildStarted,
    BuildSucceeded,
    BuildVersion,
    ChangeEgress,
    Command,
    ConnectorProvisioned,
    ConnectorRevoked,
    DeleteVersion,
    Died,
    EgressChanged,
    FreeSnapshot,
    Inventory,
    MicrovmSpec,
    ProvisionConnector,
    Report,
    ResumeMicrovm,
    RetireVersion,
    RevokeConnector,
    StartMicrovm,
    SuspendMicrovm,
    Terminated,
    TerminateMicrovm,
    VersionDeleted,
    VersionKey,
)
from microvmd.messages.shell import ShellEnd, ShellEnded, Terminal
from microvmd.model.capacity import BUILDS_AT_ONCE
from microvmd.model.egress import grant_of
from microvmd.model.image import SnapshotSizes
from microvmd.node.bring_up import Equipment
from microvmd.node.microvm import Begin, MicrovmTask
from microvmd.node.paths import remove
from microvmd.node.pool import VmmPool
from microvmd.vmm.process import ProcessFailed

log = structlog.get_logger(__name__)


class BuildRefused(Exception):
    """A build that failed; the text is the build's stateReason."""

    def __init__(self, reason: str, *, code_bytes: int | None = None) -> None:
        """``code_bytes`` is the size of the root file system, if the build came that far."""
        super().__init__(reason)
        self.reason = reason
        self.sizes = None if code_bytes is None else SnapshotSizes(code=code_bytes)


class Builder(Protocol):
    """Makes image versions; ``build/`` implements it, ``service/`` hands it in."""

    async def build(self, command: BuildVersion) -> SnapshotSizes:
        """Raise BuildRefused with the reason that the caller reads."""
        ...


class NodeAgent:
    """Serves ``messages.node``. ``report`` is where reports go."""

    def __init__(
        self,
        equipment: Equipment,
        builder: Builder,
        report: Callable[[Report], Awaitable[None]],
        *,
        concurrent_builds: int = BUILDS_AT_ONCE,
    ) -> None:
        self._equipment = equipment
        self._builder = builder
        self._report = report
        self._builds = asyncio.Semaphore(concurrent_builds)
        self._microvms: dict[str, MicrovmTask] = {}
        self._pool = VmmPool(equipment)
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._making: dict[VersionKey, asyncio.Task[None]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._pool)
        await self._stack.enter_async_context(self._tasks)
        # Last in, first out: the tasks are cancelled before the group waits for them.
        self._stack.callback(self._cancel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def sweep(self, kept: Inventory) -> None:
        """Before the first command: remove files, VMMs and networks that no record owns."""
        paths = self._equipment.paths
        removed = await asyncio.to_thread(paths.sweep, kept.microvms, kept.versions)
        if removed:
            log.info("node.swept", paths=[str(path) for path in removed])
        await self._equipment.sweep(kept.microvms)

    async def send(self, command: Command) -> None:
        """Hand over a command; its outcome comes as a report."""
        match command:
            case StartMicrovm() | ResumeMicrovm() | AdoptMicrovm():
                self._begin(command)
            case SuspendMicrovm() | TerminateMicrovm():
                self._order(command)
            case BuildVersion():
                task = self._own(self._build(command), f"build {command.version}")
                self._making[command.version] = task
                task.add_done_callback(lambda _: self._making.pop(command.version, None))
            case DeleteVersion():
                self._own(self._delete(command), f"delete {command.version}")
            case FreeSnapshot():
                self._own(self._free(command.version), f"free {command.version}")
            case RetireVersion():
                self._own(self._pool.drop(command.version), f"retire {command.version}")
            case ChangeEgress():
                self._own(self._change_egress(command), command.microvm_id)
            case ProvisionConnector() | RevokeConnector():
                self._own(self._connector(command), command.connector_id)

    @property
    def waiting(self) -> int:
        """How many VMMs wait for a guest."""
        return self._pool.waiting

    async def check_keys(self, spec: MicrovmSpec) -> None:
        """Ask KMS for what a start or resume of this MicroVM will need. Raises KeyRefused."""
        await self._equipment.vault.check(spec)

    def task_of(self, microvm_id: str) -> MicrovmTask | None:
        """The task of a MicroVM that is on the node now."""
        return self._microvms.get(microvm_id)

    @asynccontextmanager
    async def open_shell(self, microvm_id: str) -> AsyncIterator[Terminal]:
        """A shell in a RUNNING MicroVM of this node, until the context ends. Raises ShellEnded."""
        task = self._microvms.get(microvm_id)
        if task is None:
            raise ShellEnded(ShellEnd.NOT_RUNNING)
        async with task.shells.open() as terminal:
            yield terminal

    def _begin(self, command: Begin) -> None:
        equipment = self._equipment.of_image(command.spec.version)
        task = MicrovmTask(equipment, self._pool, command, self._report)
        before = self._microvms.get(command.spec.microvm_id)
        self._microvms[command.spec.microvm_id] = task
        self._own(self._live(task, before), command.spec.microvm_id)

    async def _live(self, task: MicrovmTask, before: MicrovmTask | None) -> None:
        microvm_id = task.spec.microvm_id
        # In a task of its own: everything that is logged below says which MicroVM, and whose call.
        structlog.contextvars.bind_contextvars(microvm_id=microvm_id, **_cause_of(task.spec))
        try:
            if before is not None:
                # SUSPENDED is reported before the network is down; the next generation waits.
                await before.left.wait()
            await task.run()
        finally:
            if self._microvms.get(microvm_id) is task:
                del self._microvms[microvm_id]

    def _order(self, command: SuspendMicrovm | TerminateMicrovm) -> None:
        task = self._microvms.get(command.microvm_id)
        if task is not None and task.spec.generation == command.generation and not task.over:
            task.orders.put_nowait(command)
        elif isinstance(command, TerminateMicrovm):
            self._own(self._forget(command, task), command.microvm_id)
        else:
            gone = Died(command.microvm_id, command.generation, "The MicroVM is not on its node.")
            self._own(self._said(gone), command.microvm_id)

    async def _forget(self, command: TerminateMicrovm, task: MicrovmTask | None) -> None:
        """Terminate what has no VMM: only files are left."""
        if task is not None:
            if task.spec.generation > command.generation:
                return
            await task.left.wait()
        files = self._equipment.paths.microvm(command.microvm_id)
        async with self._equipment.vault.holding(command.microvm_id):
            await self._equipment.end_vmm(files)
            await asyncio.to_thread(remove, files.directory)
        await self._report(Terminated(command.microvm_id, command.generation))

    async def _said(self, report: Report) -> None:
        await self._report(report)

    async def _build(self, command: BuildVersion) -> None:
        async with self._builds:
            await self._report(BuildStarted(command.version, command.build_id))
            try:
                sizes = await self._builder.build(command)
            except BuildRefused as refused:
                outcome: Report = BuildFailed(
                    command.version, command.build_id, refused.reason, refused.sizes
                )
            except Exception:
                log.exception("build.crashed", version=str(command.version))
                outcome = BuildFailed(
                    command.version,
                    command.build_id,
                    "INTERNAL_PLATFORM_ERROR: The build failed for a reason of the platform; "
                    "the service's log has it.",
                )
            else:
                outcome = BuildSucceeded(command.version, command.build_id, sizes)
            await self._report(outcome)

    async def _delete(self, command: DeleteVersion) -> None:
        paths = self._equipment.paths
        await self._end_builds(command.version)
        try:
            for key in await asyncio.to_thread(paths.snapshots, command.version):
                await self._pool.drop(key)
                await asyncio.to_thread(remove, paths.image(key).directory)
        except OSError as error:
            await self._report(VersionDeleted(command.version, str(error)))
        else:
            await self._report(VersionDeleted(command.version))

    async def _end_builds(self, version: VersionKey) -> None:
        """Of a version that is to be deleted; nothing is reported of them."""
        making = [task for key, task in self._making.items() if key.is_of(version)]
        for task in making:
            task.cancel()
        if making:
            await asyncio.wait(making)

    async def _free(self, version: VersionKey) -> None:
        await self._pool.drop(version)
        await asyncio.to_thread(remove, self._equipment.paths.image(version).directory)

    async def _change_egress(self, command: ChangeEgress) -> None:
        task = self._microvms.get(command.microvm_id)
        error = None
        if task is not None and task.spec.generation == command.generation:
            try:
                await task.change_egress(command.egress)
            except ProcessFailed as failed:
                error = str(failed)
        await self._report(EgressChanged(command.microvm_id, command.generation, error))

    async def _connector(self, command: ProvisionConnector | RevokeConnector) -> None:
        networks = self._equipment.networks
        error = None
        try:
            if isinstance(command, ProvisionConnector):
                await networks.check(command.egress)
            else:
                numbers = command.numbers
                await networks.revoke({grant_of(command.connector_id, n) for n in numbers})
        except ProcessFailed as failed:
            error = str(failed)
        if isinstance(command, ProvisionConnector):
            await self._report(ConnectorProvisioned(command.connector_id, command.number, error))
        else:
            await self._report(ConnectorRevoked(command.connector_id, command.numbers, error))

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._tasks.create_task(self._guarded(work, name), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """One MicroVM's fault must not end the others, which share the task group."""
        try:
            await work
        except Exception:
            log.exception("node.task_crashed", task=name)

    def _cancel(self) -> None:
        for task in self._running:
            task.cancel()


def _cause_of(spec: MicrovmSpec) -> dict[str, str]:
    found = None if spec.cause is None else spec.cause.request_id
    return {} if found is None else {"request_id": found}
