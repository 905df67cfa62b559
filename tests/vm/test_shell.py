"""Shells in a real guest whose image has none: the agent's own, which ends with the MicroVM."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from microvmd.messages.node import (
    MicrovmSpec,
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendMicrovm,
    Terminated,
    TerminateMicrovm,
)
from microvmd.messages.shell import ShellEnd, ShellEnded, Terminal
from tests.nodelab import LIMIT, NodeLab, RunningNode, ask, spec_of

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

FLOOD = 200_000


@asynccontextmanager
async def guest(lab: NodeLab) -> AsyncIterator[tuple[RunningNode, MicrovmSpec]]:
    """A node with one MicroVM, which ends with the test however that ends."""
    async with lab.node() as node:
        spec = spec_of()
        await node.start(spec)
        await node.reports.next(Started)
        try:
            yield node, spec
        finally:
            task = node.agent.task_of(spec.microvm_id)
            if task is not None:
                await node.terminate(task.spec)
                await asyncio.wait_for(task.left.wait(), LIMIT)


async def says(terminal: Terminal, text: str) -> str:
    """What comes until ``text`` does."""
    seen = b""
    try:
        async with asyncio.timeout(LIMIT):
            while text.encode() not in seen:
                data = await terminal.read()
                assert data is not None, seen
                seen += data
    except TimeoutError:
        raise AssertionError(f"no {text!r} in {seen[-1000:]!r}") from None
    return seen.decode(errors="replace")


async def ends(terminal: Terminal) -> ShellEnd | None:
    """Why reading ends; None when the shell has exited."""
    async with asyncio.timeout(LIMIT):
        try:
            while await terminal.read() is not None:
                pass
        except ShellEnded as ended:
            return ended.why
    return None


async def test_a_shell_beside_an_application_without_one(node_lab: NodeLab) -> None:
    async with guest(node_lab) as (node, spec):
        address = node.address_of(spec)
        async with node.agent.open_shell(spec.microvm_id) as terminal:
            await says(terminal, "$ ")
            await terminal.write(b'echo "$TERM:$A:$(id -u):$(cat /proc/1/comm)"\n')
            await says(terminal, "xterm:image:0:app\r\n")
            await terminal.resize(40, 120)
            await terminal.write(b"stty size\n")
            await says(terminal, "40 120\r\n")
            await terminal.write(b"sh -c 'echo asleep; exec sleep 1000'\n")
            await says(terminal, "asleep\r\n")
            await terminal.write(b"\x03")
            await terminal.write(b"echo left with $?\n")
            await says(terminal, "left with 130\r\n")

            # Two at once, and a flood that nobody reads holds up neither the other nor the guest.
            async with node.agent.open_shell(spec.microvm_id) as other:
                await other.write(f"yes | head -c {FLOOD}; echo flood over\n".encode())
                await says(other, "y\r\ny\r\n")
                await terminal.write(b"echo undisturbed\n")
                await says(terminal, "undisturbed\r\n")
                assert await ask(address, "count") == "1"
                await says(other, "flood over\r\n")
                await other.write(b"exit 3\n")
                assert await ends(other) is None
            await terminal.write(b"exit\n")
            assert await ends(terminal) is None


async def test_a_shell_ends_with_its_microvm(node_lab: NodeLab) -> None:
    async with guest(node_lab) as (node, spec):
        with pytest.raises(ShellEnded) as refused:
            await node.agent.open_shell("microvm-of-nobody").__aenter__()
        assert refused.value.why is ShellEnd.NOT_RUNNING
        async with node.agent.open_shell(spec.microvm_id) as terminal:
            await terminal.write(b"sleep 2000 & echo $((40 + 2))\n")
            await says(terminal, "42\r\n")
            await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))
            assert await ends(terminal) is ShellEnd.SUSPENDED
            with pytest.raises(ShellEnded):
                await terminal.resize(1, 1)
            await node.reports.next(Suspended)

        spec = replace(spec, generation=2)
        await node.agent.send(ResumeMicrovm(spec))
        await node.reports.next(Started)
        async with node.agent.open_shell(spec.microvm_id) as terminal:
            # What a shell left in the background goes on, the shell itself does not.
            await terminal.write(b"ps; echo listed $((1 + 1))\n")
            seen = await says(terminal, "listed 2\r\n")
            assert seen.count("sleep 2000") == 1
            assert seen.count("{shell}") == 1, seen
            await node.agent.send(TerminateMicrovm(spec.microvm_id, spec.generation))
            assert await ends(terminal) is ShellEnd.TERMINATED
        await node.reports.next(Terminated)
