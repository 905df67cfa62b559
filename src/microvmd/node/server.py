"""The node's socket: who may connect, and what each connection may ask.

Everybody at the other end is taken for an attacker who has taken over the service: frames are
bounded and judged (``messages/node_wire.py``), commands are weighed against the operator's settings
(``node/policy.py``), and a connection that breaks the rules is closed. The node goes on.

One control connection at a time commands the node. When it ends, what runs is detached and
``serve`` returns: the next process of the node adopts it, as after any restart.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from microvmd.messages.capacity import Meter
from microvmd.messages.keys import KeyRefused
from microvmd.messages.node import ChangeEgress, Command, Inventory, Report, VersionKey
from microvmd.messages.node_requests import (
    AskRoom,
    AskStored,
    AskVmm,
    CheckKeys,
    Keep,
    KeysChecked,
    LogLines,
    NetworksReloaded,
    OpenControl,
    OpenShell,
    ReadLogs,
    Refused,
    ReloadNetworks,
    ResizeShell,
    RoomIs,
    ShellOpened,
    ShellOver,
    ShellTaken,
    StoredIs,
    Sweep,
    Swept,
    Vmm,
    VmmIs,
    Welcome,
    failure_of,
)
from microvmd.messages.node_rules import LONGEST_LINE, LONGEST_REASON
from microvmd.messages.node_wire import (
    BYTES_LIMIT,
    FIRST_LIMIT,
    FROM_NODE,
    TO_NODE,
    WireError,
)
from microvmd.messages.shell import ShellEnd, ShellEnded, first_ended
from microvmd.messages.shell import Terminal as Shell
from microvmd.model.egress import EgressMap
from microvmd.node.agent import Builder, NodeAgent
from microvmd.node.bring_up import Equipment
from microvmd.node.channel import Channel, Terminal
from microvmd.node.log_reading import LogReader
from microvmd.node.policy import NodePolicy
from microvmd.vmm.causes import cause_of

log = structlog.get_logger(__name__)

MOST_CONNECTIONS = 1024
FIRST_SECONDS = 10.0
MOST_VERSIONS = 10_000_000


@dataclass(slots=True)
class NodeServer:
    """Serves one node. ``peers`` are the user ids that may connect."""

    equipment: Equipment
    builder: Builder
    policy: NodePolicy
    meter: Meter
    networks: Callable[[], EgressMap]
    """Reads the operator's mapping anew. Raises ValueError or OSError."""
    peers: frozenset[int]
    _agent: NodeAgent | None = None
    _commanded: bool = False
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _measuring: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve(self, listener: socket.socket) -> None:
        """Until the control connection has ended and nothing is held any more."""
        async with accepting(listener, self.peers, self._answer):
            await self._over.wait()

    async def _answer(self, channel: Channel) -> None:
        async with asyncio.timeout(FIRST_SECONDS):
            request = await channel.receive(FIRST_LIMIT)
        match request:
            case OpenControl():
                await self._control(channel)
            case CheckKeys():
                await _unless_gone(channel, self._check_keys(channel, request))
            case AskVmm():
                await channel.send(VmmIs(await asyncio.to_thread(self._vmm, request.microvm_id)))
            case AskRoom():
                await channel.send(await self._room())
            case AskStored(microvm_id):
                mib = await asyncio.to_thread(self.meter.stored_mib, microvm_id)
                await channel.send(StoredIs(mib))
            case ReloadNetworks():
                await channel.send(NetworksReloaded(await self._reload_networks()))
            case ReadLogs():
                await _unless_gone(channel, self._read_logs(channel, request))
            case OpenShell():
                await self._shell(channel, request)
            case None:
                return
            case _:
                raise WireError("a connection does not begin with this")

    # -- commands and reports ----------------------------------------------------------------

    async def _control(self, channel: Channel) -> None:
        if self._commanded:
            # Not taken over: whoever has a stolen id of the service must not cut its hands off.
            await channel.send(Refused("another service commands this node"))
            return
        self._commanded = True
        try:
            await self._commands(channel)
        finally:
            self._agent = None
            self._over.set()

    async def _commands(self, channel: Channel) -> None:
        async def report(said: Report) -> None:
            # Whoever is gone finds out by adopting.
            with contextlib.suppress(OSError):
                await channel.send(_clipped(said))

        await channel.send(Welcome())
        kept = await _inventory(channel)
        if kept is None:
            return
        async with NodeAgent(self.equipment, self.builder, report) as agent:
            await agent.sweep(kept)
            self._agent = agent
            await channel.send(Swept())
            log.info("node.commanded", microvms=len(kept.microvms))
            while (command := await channel.receive()) is not None:
                if not isinstance(command, Command):
                    raise WireError("only commands come here")
                await self._obey(agent, command, report)

    async def _obey(
        self, agent: NodeAgent, command: Command, report: Callable[[Report], Awaitable[None]]
    ) -> None:
        reason = self.policy.refusal(command, _account_of(agent, command))
        if reason is None:
            await agent.send(command)
            return
        log.error("node.refused", command=type(command).__name__, reason=reason)
        said = failure_of(command, f"INTERNAL_PLATFORM_ERROR: The node refused: {reason}.")
        if said is not None:
            await report(said)

    # -- requests ----------------------------------------------------------------------------

    async def _check_keys(self, channel: Channel, request: CheckKeys) -> None:
        reason = self.policy.refusal_of(request.spec)
        if reason is not None:
            await channel.send(Refused(reason))
            return
        try:
            await self.equipment.vault.check(request.spec)
        except KeyRefused as refused:
            await channel.send(KeysChecked(refused.problem, str(refused)[:LONGEST_REASON]))
        else:
            await channel.send(KeysChecked())

    def _vmm(self, microvm_id: str) -> Vmm | None:
        record = self.equipment.vmm_of(self.equipment.paths.microvm(microvm_id))
        if record is None:
            return None
        identity = record.identity
        return Vmm(identity.pid, identity.start_time, pss_of(identity.pid))

    async def _room(self) -> RoomIs:
        async with self._measuring:  # the meter is of one thread
            found = await asyncio.to_thread(self.meter.measure)
        waiting = 0 if self._agent is None else self._agent.waiting
        return RoomIs(found.machine, found.taken_mib, waiting)

    async def _reload_networks(self) -> str | None:
        try:
            networks = await asyncio.to_thread(self.networks)
        except (ValueError, OSError) as error:
            return str(error)[:LONGEST_REASON]
        self.policy = replace(self.policy, networks=networks)
        return None

    async def _read_logs(self, channel: Channel, request: ReadLogs) -> None:
        reader = LogReader(self.equipment.logs)
        found = reader.lines(request.group, request.stream, follow=request.follow)
        async with contextlib.aclosing(found) as lines:
            async for line in lines:
                clipped = replace(line, message=line.message[:LONGEST_LINE])
                await channel.send(LogLines((clipped,)))

    async def _shell(self, channel: Channel, request: OpenShell) -> None:
        why: ShellEnd | None = ShellEnd.NOT_RUNNING
        if self._agent is not None:
            try:
                async with self._agent.open_shell(request.microvm_id) as shell:
                    await channel.send(ShellOpened())
                    why = await _converse(channel, shell)
            except ShellEnded as ended:
                why = ended.why
        with contextlib.suppress(OSError):
            await channel.send(ShellOver(why))


def _account_of(agent: NodeAgent, command: Command) -> str | None:
    """Whose MicroVM the command names, as the node knows it and not as the command may say."""
    task = agent.task_of(command.microvm_id) if isinstance(command, ChangeEgress) else None
    return None if task is None else task.spec.version.account


async def _inventory(channel: Channel) -> Inventory | None:
    """All parts of it; None when the other side goes before it was complete."""
    microvms: set[str] = set()
    versions: set[VersionKey] = set()
    while True:
        match await channel.receive():
            case Keep() as part:
                microvms |= part.microvms
                versions |= part.versions
                if len(microvms) + len(versions) > MOST_VERSIONS:
                    raise WireError("an inventory without end")
            case Sweep():
                return Inventory(frozenset(microvms), frozenset(versions))
            case None:
                return None
            case _:
                raise WireError("an inventory comes first")


async def _converse(channel: Channel, shell: Shell) -> ShellEnd | None:
    """Both ways until one of them ends; why, or None when the shell exited or the client left."""
    terminal = Terminal(channel)
    # In the order in which they count when several end at once.
    return await first_ended(
        _ended(_show(shell, terminal)),
        _ended(shell.over()),
        _ended(_listen(channel, shell, terminal)),
        _ended(_type(terminal, shell)),
    )


async def _show(shell: Shell, terminal: Terminal) -> None:
    while (data := await shell.read()) is not None:
        await terminal.write(data)


async def _type(terminal: Terminal, shell: Shell) -> None:
    while (data := await terminal.read()) is not None:
        await shell.write(data)


async def _listen(channel: Channel, shell: Shell, terminal: Terminal) -> None:
    while (message := await channel.receive()) is not None:
        match message:
            case bytes():
                terminal.came(message)
            case ShellTaken():
                terminal.took(message)
            case ResizeShell(rows, cols):
                await shell.resize(rows, cols)
            case _:
                raise WireError("this does not belong to a shell")


async def _ended(work: Awaitable[ShellEnd | None]) -> ShellEnd | None:
    try:
        return await work
    except ShellEnded as ended:
        return ended.why
    except OSError:
        return None


async def _unless_gone(channel: Channel, work: Awaitable[None]) -> None:
    """Do it to its end, or until the other side hangs up."""
    async with asyncio.TaskGroup() as tasks:
        doing = tasks.create_task(_awaited(work))
        leaving = tasks.create_task(channel.gone())
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        doing.cancel()
        leaving.cancel()


async def _awaited(work: Awaitable[None]) -> None:
    with contextlib.suppress(OSError):
        await work


def _clipped(report: Report) -> Report:
    """Texts of a report may come from anywhere, a process or a guest."""
    for name in ("reason", "error"):
        text = getattr(report, name, None)
        if text is not None:
            clean = text[:LONGEST_REASON].encode(errors="replace").decode()
            report = replace(report, **{name: clean})
    return report


def pss_of(pid: int) -> int | None:
    """Proportional share of memory in bytes, None when the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in lines:
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


@contextlib.asynccontextmanager
async def accepting(
    listener: socket.socket,
    peers: frozenset[int],
    answer: Callable[[Channel], Awaitable[None]],
) -> AsyncIterator[None]:
    """Answer each connection of these users in a task of its own, while the context lasts."""
    async with asyncio.TaskGroup() as tasks:
        connections: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            channel = Channel(reader, writer, incoming=TO_NODE, outgoing=FROM_NODE)
            if not server.is_serving():
                channel.close()
                return
            if channel.peer not in peers or len(connections) >= MOST_CONNECTIONS:
                log.warning("node.turned_away", uid=channel.peer, open=len(connections))
                channel.close()
                return
            task = tasks.create_task(_guarded(channel, answer))
            connections.add(task)
            task.add_done_callback(connections.discard)
            # Not in the task: one that is cancelled before it begins runs nothing.
            task.add_done_callback(lambda _: channel.close())

        server = await asyncio.start_unix_server(accepted, sock=listener, limit=BYTES_LIMIT)
        try:
            yield
        finally:
            server.close()
            for task in connections:
                task.cancel()


async def _guarded(channel: Channel, answer: Callable[[Channel], Awaitable[None]]) -> None:
    """A connection's fault is its own."""
    try:
        await answer(channel)
    except* (WireError, TimeoutError) as broken:
        reason = str(cause_of(broken)) or "the first message did not come in time"
        log.warning("node.connection_refused", reason=reason)
        with contextlib.suppress(OSError):
            await channel.send(Refused(reason[:LONGEST_REASON]))
    except* OSError:
        pass  # the other side has gone
    except* Exception as failed:
        log.exception("node.connection_failed", error=str(failed))


async def refuse_all(listener: socket.socket, peers: frozenset[int], reason: str) -> None:
    """Tell the next who wants to command this node that it cannot start, and why."""
    told = asyncio.Event()

    async def answer(channel: Channel) -> None:
        async with asyncio.timeout(FIRST_SECONDS):
            request = await channel.receive(FIRST_LIMIT)
        await channel.send(Refused(reason[:LONGEST_REASON]))
        if isinstance(request, OpenControl):
            told.set()

    async with accepting(listener, peers, answer):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await told.wait()
