"""The service's end, against the node's own socket code and a script of what the node says."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from microvmd.messages.keys import KeyProblem, KeyRefused
from microvmd.messages.node import (
    AdoptMicrovm,
    BuildVersion,
    Command,
    DeleteVersion,
    Died,
    Inventory,
    LogTarget,
    MicrovmSpec,
    Node,
    Report,
    Started,
    StartMicrovm,
    SuspendMicrovm,
    Terminated,
)
from microvmd.messages.node_requests import (
    SHELL_CREDIT,
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
)
from microvmd.messages.shell import ShellEnd, ShellEnded
from microvmd.model.microvm import Phase
from microvmd.node.channel import Channel
from microvmd.node.server import accepting
from microvmd.service.node_client import NodeClient, NodeUnavailable
from tests.nodemessages import ID, SAMPLES, SPEC

pytestmark = pytest.mark.anyio

LIMIT = 20
OTHER = ID.replace("0000-4000", "0001-4000")
ME = os.geteuid()
Answer = Callable[[Channel], Awaitable[None]]


@dataclass
class Plane:
    """A control plane with two MicroVMs on record, whose reports a test waits for."""

    record: list[tuple[MicrovmSpec, Phase]] = field(default_factory=list)
    reports: "asyncio.Queue[Report]" = field(default_factory=asyncio.Queue)
    inventories: int = 0

    async def inventory(self) -> Inventory:
        self.inventories += 1
        return Inventory(frozenset(spec.microvm_id for spec, _ in self.record), frozenset())

    async def adopt(self, node: Node, waits: Callable[[MicrovmSpec], bool]) -> None:
        for spec, phase in self.record:
            if not waits(spec):
                await node.send(AdoptMicrovm(spec, phase))

    async def report(self, report: Report) -> None:
        self.reports.put_nowait(report)


@dataclass
class Script:
    """A node that takes an inventory, and whatever commands come."""

    commands: "asyncio.Queue[object]" = field(default_factory=asyncio.Queue)
    kept: list[Keep] = field(default_factory=list)
    channel: Channel | None = None

    async def __call__(self, channel: Channel) -> None:
        assert await channel.receive() == OpenControl()
        await channel.send(Welcome())
        while (part := await channel.receive()) != Sweep():
            assert isinstance(part, Keep)
            self.kept.append(part)
        await channel.send(Swept())
        self.channel = channel
        while (command := await channel.receive()) is not None:
            self.commands.put_nowait(command)

    async def next(self, count: int) -> list[object]:
        async with asyncio.timeout(LIMIT):
            return [await self.commands.get() for _ in range(count)]

    async def say(self, message: object) -> None:
        assert self.channel is not None
        await self.channel.send(message)

    def die(self) -> None:
        assert self.channel is not None
        self.channel.close()


@asynccontextmanager
async def listening(path: Path, answer: Answer, peers: frozenset[int]) -> AsyncIterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        async with accepting(listener, peers, answer):
            yield


@asynccontextmanager
async def node(directory: Path, answer: Answer) -> AsyncIterator[NodeClient]:
    """A client, and behind its socket what the test says."""
    path = directory / "n.sock"
    async with listening(path, answer, frozenset({ME})):
        client = NodeClient(path, peer=ME)
        client.bind(Plane())
        yield client


@asynccontextmanager
async def session(directory: Path, script: Script, plane: Plane) -> AsyncIterator[NodeClient]:
    """A client in session with a script."""
    async with node(directory, script) as client, asyncio.timeout(LIMIT):
        client.bind(plane)
        await client.open()
        async with asyncio.TaskGroup() as tasks:
            supervising = tasks.create_task(client.supervise())
            await client.ready.wait()
            yield client
            supervising.cancel()


async def test_a_session_begins_with_an_inventory_and_adoption(tmp_path: Path) -> None:
    script, plane = Script(), Plane([(SPEC, Phase.RUNNING)])
    async with session(tmp_path, script, plane) as client:
        assert script.kept == [Keep(microvms=frozenset({ID}))]
        assert await script.next(1) == [AdoptMicrovm(SPEC, Phase.RUNNING)]
        assert client.state == "ok"
        await client.send(SuspendMicrovm(ID, 1))
        assert await script.next(1) == [SuspendMicrovm(ID, 1)], "its adoption is no suspend"
        for report in (Started(ID, 1, "10.0.0.2"), Terminated(OTHER, 1), Died(ID, 1, "x")):
            await script.say(report)
        found = [await plane.reports.get() for _ in range(3)]
        assert [one for one in found if isinstance(one, Started | Died)] == [
            Started(ID, 1, "10.0.0.2"),
            Died(ID, 1, "x"),
        ]


async def test_a_node_that_comes_again_is_told_all(tmp_path: Path) -> None:
    script, plane = Script(), Plane([(SPEC, Phase.SUSPENDING)])
    async with session(tmp_path, script, plane) as client:
        await script.next(1)
        client.ready.clear()
        script.die()
        await client.ready.wait()
        assert plane.inventories == 2
        assert await script.next(1) == [AdoptMicrovm(SPEC, Phase.SUSPENDING)]
        # Decided before the record was read: the adoption settles it.
        await client.send(SuspendMicrovm(ID, 1))
        await script.say(Started(ID, 1, "10.0.0.2"))
        await plane.reports.get()
        await client.send(SuspendMicrovm(ID, 1))
        assert await script.next(1) == [SuspendMicrovm(ID, 1)]
        assert script.commands.empty()


async def test_a_start_waits_for_the_next_node(tmp_path: Path) -> None:
    script, plane = Script(), Plane()
    async with node(tmp_path, script) as client, asyncio.timeout(LIMIT):
        client.bind(plane)
        await client.send(StartMicrovm(SPEC))
        await client.send(SuspendMicrovm(OTHER, 1))
        plane.record = [(SPEC, Phase.PENDING), (replace(SPEC, microvm_id=OTHER), Phase.SUSPENDING)]
        opened = await client.open()
        async with asyncio.TaskGroup() as tasks:
            using = tasks.create_task(client.use(opened))
            found = await script.next(2)
            assert StartMicrovm(SPEC) in found
            assert AdoptMicrovm(plane.record[1][0], Phase.SUSPENDING) in found
            using.cancel()


async def test_orders_of_the_time_between_inventory_and_adoption(tmp_path: Path) -> None:
    """While a node that came again sweeps, calls go on."""
    script, plane = Script(), Plane()
    other = replace(SPEC, microvm_id=OTHER)
    async with node(tmp_path, script) as client, asyncio.timeout(LIMIT):
        client.bind(plane)
        opened = await client.open()
        await client.send(SuspendMicrovm(ID, 1))
        await client.send(SuspendMicrovm(OTHER, other.generation))
        # Of one the record tells already when it is read, of the other not yet.
        plane.record = [(SPEC, Phase.RUNNING), (other, Phase.SUSPENDING)]
        async with asyncio.TaskGroup() as tasks:
            using = tasks.create_task(client.use(opened))
            found = await script.next(3)
            assert found[:2] == [
                AdoptMicrovm(other, Phase.SUSPENDING),
                AdoptMicrovm(SPEC, Phase.RUNNING),
            ]
            assert found[2:] == [SuspendMicrovm(ID, 1)]
            assert script.commands.empty()
            using.cancel()


async def test_what_the_node_would_refuse_is_settled_here(tmp_path: Path) -> None:
    script, plane = Script(), Plane()
    async with session(tmp_path, script, plane) as client:
        await client.send(StartMicrovm(replace(SPEC, log=LogTarget("../x", "s"))))
        report = await plane.reports.get()
        assert isinstance(report, Died)
        assert "The node would refuse: LogTarget.group" in report.reason
        build = next(one for one in SAMPLES if isinstance(one, BuildVersion))
        long = replace(build, config=replace(build.config, description="x" * 100_000))
        for command in (long, DeleteVersion(SPEC.version)):
            await client.send(command)
        assert await script.next(2) == [build, DeleteVersion(SPEC.version)]


async def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def answer(channel: Channel) -> None:
        await channel.receive()
        await channel.send(Refused("no kernel"))

    async with node(tmp_path, answer) as client:
        with pytest.raises(NodeUnavailable, match="no kernel"):
            await client.open()
        with pytest.raises(KeyRefused, match="no kernel") as refused:
            await client.check_keys(SPEC)
        assert refused.value.problem is KeyProblem.UNREACHABLE
        assert await client.vmm(ID) is None


async def test_nobody_else_is_taken_for_the_node(tmp_path: Path) -> None:
    script = Script()
    async with node(tmp_path, script) as client:
        client.peer = ME + 1
        with pytest.raises(NodeUnavailable, match="not the node's"):
            await client.open()
        client.peer = ME
        (await client.open()).close()
    with pytest.raises(NodeUnavailable, match="no node listens"):
        await NodeClient(tmp_path / "none.sock").open()


async def test_a_stranger_is_hung_up_on(tmp_path: Path) -> None:
    path = tmp_path / "n.sock"
    client = NodeClient(path, peer=ME)
    client.bind(Plane())
    async with listening(path, Script(), frozenset({ME + 1})):
        with pytest.raises(NodeUnavailable):
            await client.open()


async def test_questions(tmp_path: Path) -> None:
    async def answer(channel: Channel) -> None:
        match await channel.receive():
            case AskVmm():
                await channel.send(VmmIs(Vmm(1, 2, 3)))
            case ReloadNetworks():
                await channel.send(NetworksReloaded("no file"))
            case CheckKeys():
                await channel.send(KeysChecked(KeyProblem.DENIED, "alias/x: denied"))
            case ReadLogs(follow=follow):
                assert not follow
                for text in "ab":
                    await channel.send(LogLines((LogLine(1.0, "s", text),)))

    async with node(tmp_path, answer) as client, asyncio.timeout(LIMIT):
        async with aclosing(client.lines("no group", "s", follow=False)) as lines:
            assert [line async for line in lines] == []
        assert await client.vmm(ID) == Vmm(1, 2, 3)
        assert await client.reload_networks() == "no file"
        with pytest.raises(KeyRefused, match="alias/x"):
            await client.check_keys(SPEC)
        async with aclosing(client.lines(SPEC.log.group, None, follow=False)) as lines:
            assert [line.message async for line in lines] == ["a", "b"]


async def test_a_shell_flows_both_ways_at_the_pace_of_the_slower(tmp_path: Path) -> None:
    typed = bytearray()
    sent = asyncio.Event()

    async def answer(channel: Channel) -> None:
        assert isinstance(await channel.receive(), OpenShell)
        await channel.send(ShellOpened())
        await channel.send_bytes(bytes(SHELL_CREDIT))
        assert await channel.receive() == ResizeShell(24, 80)
        while len(typed) < 2 * SHELL_CREDIT:
            match await channel.receive():
                case bytes() as data:
                    typed.extend(data)
                    await channel.send(ShellTaken(len(data)))
        # Nobody has read what came first, and the end is known all the same.
        await channel.send(ShellOver(ShellEnd.SUSPENDED))
        sent.set()

    async with node(tmp_path, answer) as client, asyncio.timeout(LIMIT):
        async with client.open_shell(ID) as terminal:
            await terminal.resize(24, 80)
            await terminal.write(b"x" * 2 * SHELL_CREDIT)
            assert await terminal.over() is ShellEnd.SUSPENDED
            assert await terminal.read() == bytes(SHELL_CREDIT)
            with pytest.raises(ShellEnded, match="suspended"):
                await terminal.read()
        await sent.wait()
    assert bytes(typed) == b"x" * 2 * SHELL_CREDIT


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ((ShellOver(ShellEnd.NOT_RUNNING),), ShellEnd.NOT_RUNNING),
        ((Refused("no"),), ShellEnd.DETACHED),
        ((), ShellEnd.DETACHED),
    ],
)
async def test_a_shell_that_does_not_begin(
    tmp_path: Path, said: tuple[object, ...], why: ShellEnd
) -> None:
    async def answer(channel: Channel) -> None:
        await channel.receive()
        for message in said:
            await channel.send(message)

    async with node(tmp_path, answer) as client:
        with pytest.raises(ShellEnded) as ended:
            async with client.open_shell(ID):
                pass
        assert ended.value.why is why


@pytest.mark.parametrize("data", [b"x" * (SHELL_CREDIT + 1)])
async def test_bytes_without_credit_end_a_shell(tmp_path: Path, data: bytes) -> None:
    async def answer(channel: Channel) -> None:
        await channel.receive()
        await channel.send(ShellOpened())
        await channel.send_bytes(data[:SHELL_CREDIT])
        await channel.send_bytes(data[SHELL_CREDIT:])
        await channel.gone()

    async with node(tmp_path, answer) as client, client.open_shell(ID) as terminal:
        async with asyncio.timeout(LIMIT):
            assert await terminal.over() is ShellEnd.DETACHED


def test_every_command_is_of_the_list() -> None:
    assert all(isinstance(one, Command) for one in SAMPLES[:6])
