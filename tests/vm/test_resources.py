"""What bounds a VMM: groups and limits as the kernel has them, and what happens at their end.

The application takes memory until its VMM is at a limit that the test lowers; the guest itself has
far more, so it is the host's kernel that ends it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from microvmd.messages.node import (
    AdoptMicrovm,
    Died,
    MicrovmSpec,
    Started,
    SuspendMicrovm,
    Terminated,
)
from microvmd.model.hooks import HookName
from microvmd.model.microvm import Phase
from microvmd.node.cgroup import Cgroup, find_hierarchies
from microvmd.node.jail import OUT_OF_MEMORY
from tests.nodelab import NodeLab, RunningNode, ask, spec_of, with_hooks

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

LIMIT_MIB = 200
TOO_MUCH_MIB = 400
"""Less than the guest has; its VMM alone takes less than LIMIT_MIB."""


@pytest.fixture
async def node(node_lab: NodeLab) -> AsyncIterator[RunningNode]:
    async with node_lab.node() as running:
        yield running


async def _started(node: RunningNode, spec: MicrovmSpec) -> str:
    await node.start(spec)
    return (await node.reports.next(Started)).edge_address


def _files(node: RunningNode, spec: MicrovmSpec) -> dict[str, Path]:
    """The directory of its group for each controller, and "2" for those of version 2."""
    found = {}
    for hierarchy in find_hierarchies():
        directory = hierarchy.root / node.lab.lane.group / spec.microvm_id
        for controller in hierarchy.controllers:
            found[f"{controller}{hierarchy.version}"] = directory
    return found


def _lower_memory(node: RunningNode, spec: MicrovmSpec) -> None:
    files = _files(node, spec)
    if "memory2" in files:
        (files["memory2"] / "memory.max").write_text(str(LIMIT_MIB << 20))
    else:
        (files["memory1"] / "memory.limit_in_bytes").write_text(str(LIMIT_MIB << 20))


def _rlimits(pid: int | None) -> dict[str, list[str]]:
    """Soft and hard limit by name, as the kernel writes them."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


async def _ended_by_taking(node: RunningNode, address: str) -> Died:
    """The application takes too much memory, and so never answers."""
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(_take(address))
        died = await node.reports.next(Died)
        taking.cancel()
    return died


async def _take(address: str) -> None:
    with suppress(httpx.HTTPError):
        await ask(address, f"take/{TOO_MUCH_MIB}")


async def _terminated(node: RunningNode, spec: MicrovmSpec) -> None:
    await node.terminate(spec)
    await node.reports.next(Terminated)


async def test_the_kernel_has_the_limits_of_the_size(node: RunningNode) -> None:
    spec = spec_of()
    await _started(node, spec)
    files = _files(node, spec)
    if "cpu2" in files:
        assert (files["cpu2"] / "cpu.weight").read_text() == "25\n"
        assert (files["cpu2"] / "cpu.max").read_text() == "150000 100000\n"
    if "cpu1" in files:
        assert (files["cpu1"] / "cpu.shares").read_text() == "256\n"
        assert (files["cpu1"] / "cpu.cfs_quota_us").read_text() == "150000\n"
    pid = node.pid_of(spec)
    for directory in set(files.values()):
        assert str(pid) in (directory / "cgroup.procs").read_text().split()
    found = _rlimits(pid)
    assert found["Max core file size"] == found["Max locked memory"] == ["0", "0"]
    assert found["Max open files"] == ["256", "256"]
    soft, hard = found["Max file size"]
    assert soft == hard
    assert spec.size.disk_gib << 30 < int(soft) < 2 * spec.size.disk_gib << 30
    await _terminated(node, spec)
    assert not any(directory.exists() for directory in files.values())


async def test_private_memory_is_that_of_the_microvm(node: RunningNode) -> None:
    spec = spec_of()
    address = await _started(node, spec)
    group = Cgroup(find_hierarchies(), node.lab.lane.group, spec.microvm_id)
    before = group.private_bytes()
    await ask(address, "take/100")
    assert group.private_bytes() - before > 90 << 20
    await _terminated(node, spec)
    assert group.private_bytes() == 0


async def test_one_that_runs_out_of_memory_ends_alone_and_says_so(node: RunningNode) -> None:
    greedy, neighbour = spec_of(), spec_of()
    address, beside = await _started(node, greedy), await _started(node, neighbour)
    pid = node.pid_of(neighbour)
    _lower_memory(node, greedy)
    died = await _ended_by_taking(node, address)
    assert (died.microvm_id, died.reason) == (greedy.microvm_id, OUT_OF_MEMORY)
    assert await ask(beside, "count") == "1"
    assert node.pid_of(neighbour) == pid
    assert not any(directory.exists() for directory in _files(node, greedy).values())
    await _terminated(node, neighbour)


async def test_the_reason_is_told_while_a_hook_runs(node: RunningNode) -> None:
    spec = spec_of(with_hooks(HookName.SUSPEND))
    address = await _started(node, spec)
    await ask(address, "hang/suspend")
    _lower_memory(node, spec)
    await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))
    async with asyncio.timeout(60):
        while "suspend" not in await ask(address, "hooks"):
            pass
    assert (await _ended_by_taking(node, address)).reason == OUT_OF_MEMORY


async def test_an_adopted_one_says_so_too(node_lab: NodeLab) -> None:
    spec = spec_of()
    async with node_lab.node() as node:
        await _started(node, spec)
    async with node_lab.node() as node:
        await node.agent.send(AdoptMicrovm(spec, Phase.RUNNING))
        address = (await node.reports.next(Started)).edge_address
        _lower_memory(node, spec)
        assert (await _ended_by_taking(node, address)).reason == OUT_OF_MEMORY
