"""The service's end of its node: commands out, reports in, over a node that may die and come again.

A new session begins with an inventory and with the adoption of what runs, as after any restart.
What is decided while there is no session waits for the next one.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from microvmd.messages.keys import KeyProblem, KeyRefused
from microvmd.messages.node import (
    AdoptMicrovm,
    BuildFailed,
    BuildStarted,
    BuildSucceeded,
    BuildVersion,
    Command,
    ConnectorProvisioned,
    ConnectorRevoked,
    Inventory,
    MicrovmSpec,
    Node,
    Report,
    ResumeMicrovm,
    StartMicrovm,
    SuspendMicrovm,
    VersionDeleted,
)
from microvmd.messages.node_requests import (
    AskVmm,
    CheckKeys,
    Keep,
    KeysChecked,
    LogLine,
    LogLines,
    NetworksReloaded,
    OpenControl,
    OpenShell,
    ReadLogs,
    Refused,
    ReloadNetworks,
    ResizeShell,
    ShellOpened,
    ShellOver,
    ShellTaken,
    Sweep,
    Swept,
    Vmm,
    VmmIs,
    Welcome,
    failure_of,
)
from microvmd.messages.node_rules import MOST_KEPT
from microvmd.messages.node_wire import FROM_NODE, TO_NODE, WireError
from microvmd.messages.shell import ShellEnd, ShellEnded, Terminal
from microvmd.model.microvm import Phase
from microvmd.node import channel
from microvmd.node.channel import Channel

log = structlog.get_logger(__name__)

ANSWER_LIMIT = 60.0
"""Seconds for an answer."""
START_LIMIT = 300.0
"""Seconds until the first word of a node, which comes when it has started: on its first start it
tries KVM, for `vmm.probe_seconds`, and makes the guest's kernel ready."""
RETRY_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
ROOT = 0


_Answer = TypeVar("_Answer")


class NodeUnavailable(Exception):
    """There is no node, or it does not serve us; the text says why."""


class Plane(Protocol):
    """The control plane, as its node's client needs it."""

    async def inventory(self) -> Inventory:
        """What the node must keep; builds that are under way are given up by this."""

    async def adopt(self, node: Node, waits: Callable[[MicrovmSpec], bool]) -> None:
        """Ask for the adoption of all that is on the node, and again for all else that is under
        way. ``waits`` tells of what no node has been told of yet."""

    async def report(self, report: Report) -> None:
        """What the node says."""


@dataclass(slots=True)
class NodeClient:
    """Implements ``messages.node.Node``. ``open`` it, then ``supervise`` it."""

    socket: Path
    peer: int = ROOT
    """User id that the node must have."""
    state: str = "the node is being started"
    """``ok``, or what is the matter."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first session is in use."""
    _plane: Plane | None = None
    _opened: Channel | None = None
    """A session that is not in use yet."""
    _session: Channel | None = None
    _waiting: list[Command] = field(default_factory=list)
    _adopting: dict[str, tuple[int, Phase]] = field(default_factory=dict)
    """Generations whose adoption was asked for and not answered yet, and what they were at."""
    _handling: dict[object, asyncio.Task[None]] = field(default_factory=dict)

    def bind(self, plane: Plane) -> None:
        """Both need the other: once, before ``open``."""
        self._plane = plane

    @property
    def plane(self) -> Plane:
        assert self._plane is not None
        return self._plane

    # -- commands ----------------------------------------------------------------------------

    async def send(self, command: Command) -> None:
        """Hand over a command, or keep it for the next session."""
        if self._is_settled_by_adoption(command):
            return
        if isinstance(command, AdoptMicrovm):
            self._put_first(command)
        else:
            self._waiting.append(_lean(command))
        if self._session is not None:
            with suppress(OSError):
                await self._flush(self._session)

    def _is_settled_by_adoption(self, command: Command) -> bool:
        """Decided just before what is there was read from the record: the adoption covers it."""
        match command:
            case AdoptMicrovm(spec, phase):
                self._adopting[spec.microvm_id] = (spec.generation, phase)
                return False
            case StartMicrovm(spec):
                begun = (spec.generation, Phase.PENDING)
            case ResumeMicrovm(spec):
                begun = (spec.generation, Phase.RESUMING)
            case SuspendMicrovm(_, generation):
                begun = (generation, Phase.SUSPENDING)
            case _:
                return False
        return self._adopting.get(_microvm_id(command)) == begun

    def _put_first(self, adoption: AdoptMicrovm) -> None:
        """Orders may wait since the session was opened, and no node knows of what it has not
        adopted yet. A suspend of which the record tells already is settled by the adoption."""
        told: SuspendMicrovm | None = None
        if adoption.phase is Phase.SUSPENDING:
            told = SuspendMicrovm(adoption.spec.microvm_id, adoption.spec.generation)
        self._waiting = [adoption, *(one for one in self._waiting if one != told)]

    def _waits(self, spec: MicrovmSpec) -> bool:
        """A start or resume that no node has been told of: there is nothing to adopt."""
        return any(
            isinstance(one, StartMicrovm | ResumeMicrovm)
            and (one.spec.microvm_id, one.spec.generation) == (spec.microvm_id, spec.generation)
            for one in self._waiting
        )

    async def _flush(self, session: Channel) -> None:
        commands, self._waiting = self._waiting, []
        for command in commands:
            try:
                session.put(command)
            except WireError as error:
                name = type(command).__name__
                log.error("node.command_not_sent", command=name, reason=str(error))
                if not isinstance(command, AdoptMicrovm):
                    reason = f"INTERNAL_PLATFORM_ERROR: The node would refuse: {error}."
                    failed = failure_of(command, reason)
                    if failed is not None:
                        await self.plane.report(failed)
        await session.drain()

    # -- the session -------------------------------------------------------------------------

    async def open(self) -> Channel:
        """A session with the inventory handed over. Raises NodeUnavailable."""
        session = await self._dial()
        try:
            async with asyncio.timeout(START_LIMIT):
                await session.send(OpenControl())
                _expect(await session.receive(), Welcome)
            async with asyncio.timeout(ANSWER_LIMIT):
                # What waits from before is covered by what the record says from now on.
                before, self._waiting = self._waiting, []
                kept = await self.plane.inventory()
                for part in _parts(kept):
                    await session.send(part)
                await session.send(Sweep())
                _expect(await session.receive(), Swept)
        except (OSError, TimeoutError, WireError) as error:
            session.close()
            raise NodeUnavailable(f"the node does not answer: {error}") from error
        except BaseException:
            session.close()
            raise
        self._waiting[:0] = [one for one in before if isinstance(one, StartMicrovm | ResumeMicrovm)]
        self._opened = session
        return session

    async def use(self, session: Channel) -> None:
        """Adopt, and hand over reports until the node ends the session."""
        self._adopting.clear()
        try:
            await self.plane.adopt(self, self._waits)
            async with asyncio.TaskGroup() as tasks:
                self._session = session
                self.state = "ok"
                await self._flush(session)
                self.ready.set()
                while (report := await session.receive()) is not None:
                    self._hand_over(tasks, report)
        except* ConnectionError:
            pass
        except* WireError:
            log.exception("node.session_broken")
        finally:
            self._session = None
            self.state = "the node is being started again"
            session.close()

    async def supervise(self) -> None:
        """Run for ever: use the session, and open another one when it has ended."""
        while True:
            session, self._opened = self._opened, None
            if session is None:
                log.error("node.lost")
                session = await self._open_again()
                log.info("node.found")
            await self.use(session)

    async def _open_again(self) -> Channel:
        attempt = 0
        while True:
            await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1
            try:
                session = await self.open()
                self._opened = None
                return session
            except NodeUnavailable as error:
                self.state = str(error)
                log.warning("node.unavailable", reason=str(error))

    def _hand_over(self, tasks: asyncio.TaskGroup, report: object) -> None:
        """Reports of one thing in their order, of others beside them."""
        if not isinstance(report, Report):
            raise WireError(f"{type(report).__name__} is no report")
        subject = _subject(report)
        if isinstance(subject, str):
            self._adopting.pop(subject, None)
        before = self._handling.get(subject)
        task = tasks.create_task(self._handle(report, before))
        self._handling[subject] = task
        task.add_done_callback(lambda done: self._handled(subject, done))

    def _handled(self, subject: object, done: asyncio.Task[None]) -> None:
        if self._handling.get(subject) is done:
            del self._handling[subject]

    async def _handle(self, report: Report, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            await self.plane.report(report)
        except Exception:
            log.exception("node.report_failed", report=type(report).__name__)

    # -- requests ----------------------------------------------------------------------------

    async def check_keys(self, spec: MicrovmSpec) -> None:
        """Ask KMS for what a start or resume of this MicroVM will need. Raises KeyRefused."""
        try:
            found = await self._ask(CheckKeys(spec), KeysChecked)
        except NodeUnavailable as error:
            raise KeyRefused(KeyProblem.UNREACHABLE, str(error)) from error
        if found.problem is not None:
            raise KeyRefused(found.problem, found.text)

    async def vmm(self, microvm_id: str) -> Vmm | None:
        """The VMM of a MicroVM while it is alive; None too while the node cannot be asked."""
        try:
            return (await self._ask(AskVmm(microvm_id), VmmIs)).vmm
        except NodeUnavailable as error:
            log.warning("node.unavailable", reason=str(error))
            return None

    async def reload_networks(self) -> str | None:
        """Let the node read the operator's mapping again; its error."""
        try:
            return (await self._ask(ReloadNetworks(), NetworksReloaded)).error
        except NodeUnavailable as error:
            return str(error)

    async def lines(
        self, group: str, stream: str | None, *, follow: bool
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of one stream, or of all streams of the group; with ``follow`` until either side
        ends."""
        try:
            async with self._connection(ReadLogs(group, stream, follow)) as connection:
                while (found := await connection.receive()) is not None:
                    for line in _expect(found, LogLines).lines:
                        yield line
        except (NodeUnavailable, WireError, OSError) as error:
            # A name that no log has, or a node that has just ended.
            log.warning("node.logs_unreadable", reason=str(error))

    @asynccontextmanager
    async def open_shell(self, microvm_id: str) -> AsyncIterator[Terminal]:
        """A shell in a RUNNING MicroVM, until the context ends. Raises ShellEnded."""
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(
                    self._connection(OpenShell(microvm_id))
                )
                answer = await connection.receive()
            except (NodeUnavailable, WireError, OSError) as error:
                raise ShellEnded(ShellEnd.DETACHED) from error
            if not isinstance(answer, ShellOpened):
                raise ShellEnded(_why(answer))
            shell = _Shell(connection)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(tasks.create_task(shell.listen()).cancel)
            yield shell

    async def _ask(self, request: object, answer: type[_Answer]) -> "_Answer":
        try:
            async with asyncio.timeout(ANSWER_LIMIT), self._connection(request) as connection:
                return _expect(await connection.receive(), answer)
        except (OSError, TimeoutError, WireError) as error:
            raise NodeUnavailable(f"the node does not answer: {error}") from error

    @asynccontextmanager
    async def _connection(self, request: object) -> AsyncIterator[Channel]:
        TO_NODE.encode(request)  # what would be refused is not worth a connection
        connection = await self._dial()
        try:
            await connection.send(request)
            yield connection
        finally:
            connection.close()

    async def _dial(self) -> Channel:
        try:
            found = await channel.dial(self.socket, incoming=FROM_NODE, outgoing=TO_NODE)
        except OSError as error:
            raise NodeUnavailable(f"no node listens on {self.socket}: {error.strerror}") from error
        if found.peer != self.peer:
            found.close()
            raise NodeUnavailable(f"user {found.peer} listens on {self.socket}, not the node's")
        return found


class _Shell:
    """Implements ``messages.shell.Terminal`` over a connection."""

    def __init__(self, connection: Channel) -> None:
        self._connection = connection
        self._terminal = channel.Terminal(connection)
        self._over: asyncio.Future[ShellEnd] = asyncio.get_running_loop().create_future()
        self._exited = False

    async def listen(self) -> None:
        """Take what comes until the end."""
        why: ShellEnd | None = ShellEnd.DETACHED
        try:
            while (found := await self._connection.receive()) is not None:
                match found:
                    case bytes():
                        self._terminal.came(found)
                    case ShellTaken():
                        self._terminal.took(found)
                    case ShellOver():
                        why = found.why
                        break
                    case _:
                        why = _why(found)
                        break
        except (WireError, OSError):
            log.exception("node.shell_broken")
        finally:
            self._exited = why is None
            if why is not None and not self._over.done():
                self._over.set_result(why)
            self._terminal.end()

    async def over(self) -> ShellEnd:
        return await asyncio.shield(self._over)

    async def read(self) -> bytes | None:
        with _lost():
            data = await self._terminal.read()
        if data is None and not self._exited:
            raise ShellEnded(await self.over())
        return data

    async def write(self, data: bytes) -> None:
        with _lost():
            await self._terminal.write(data)

    async def resize(self, rows: int, cols: int) -> None:
        with _lost():
            await self._connection.send(ResizeShell(rows, cols))


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShellEnded(ShellEnd.DETACHED) from error


def _why(answer: object) -> ShellEnd:
    if isinstance(answer, ShellOver):
        return answer.why or ShellEnd.NO_SHELL
    return ShellEnd.DETACHED


def _expect(found: object, kind: type[_Answer]) -> _Answer:
    if isinstance(found, kind):
        return found
    if isinstance(found, Refused):
        raise NodeUnavailable(found.reason)
    said = "nothing" if found is None else type(found).__name__
    raise NodeUnavailable(f"the node says {said}, not {kind.__name__}")


def _parts(kept: Inventory) -> Iterator[Keep]:
    microvms, versions = iter(kept.microvms), iter(kept.versions)
    while ids := frozenset(islice(microvms, MOST_KEPT)):
        yield Keep(microvms=ids)
    while keys := frozenset(islice(versions, MOST_KEPT)):
        yield Keep(versions=keys)


def _lean(command: Command) -> Command:
    """Without what a node has no use for."""
    if isinstance(command, BuildVersion):
        return replace(command, config=replace(command.config, description=None))
    return command


def _microvm_id(command: StartMicrovm | ResumeMicrovm | SuspendMicrovm) -> str:
    return command.microvm_id if isinstance(command, SuspendMicrovm) else command.spec.microvm_id


def _subject(report: Report) -> object:
    match report:
        case BuildStarted() | BuildSucceeded() | BuildFailed() | VersionDeleted():
            return report.version
        case ConnectorProvisioned() | ConnectorRevoked():
            return f"connector {report.connector_id}"
    return report.microvm_id
