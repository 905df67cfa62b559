"""Bombs in a guest: of processes, memory, disk and log. Each goes off where nothing holds it; in a
guest it ends in the guest, and a neighbour answers all the while."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from microvmd.cli.waiting import poll
from microvmd.messages.node import Terminated
from microvmd.node.jail import limits_for
from tests.attacklab import (
    ANSWERED,
    DISK_BYTES,
    GUEST_MIB,
    Attacker,
    attacker,
    ended,
    unbound,
    unharmed,
)
from tests.nodelab import LIMIT, NodeLab

pytestmark = [pytest.mark.vm, pytest.mark.security, pytest.mark.anyio]

MIB = 1 << 20
LIMITS = limits_for(GUEST_MIB, 1)
OWN_GROWTH_MIB = 96
"""Of the node's process: what waits of a log and its lines, far below what the guest printed."""


def resident_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) // 1024


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def vmm_of(guest: Attacker) -> int:
    pid = guest.node.pid_of(guest.spec)
    assert pid is not None
    return pid


async def test_a_fork_bomb(attack_lab: NodeLab) -> None:
    wanted = 1_000_000
    async with attack_lab.node() as node, attacker(node) as one, attacker(node) as other:
        async with unharmed(other):
            made = int(await one.does("forks", wanted))
        assert LIMITS.pids < made < wanted, "its own kernel ends it"
        assert threads(vmm_of(one)) <= LIMITS.pids
        assert await one.does("forks", 1) in "01"


async def test_a_fork_bomb_here_goes_off(attacker_here: Path) -> None:
    assert unbound(attacker_here, "forks", 3 * LIMITS.pids) == str(3 * LIMITS.pids)


async def test_a_memory_bomb(attack_lab: NodeLab, attacker_here: Path) -> None:
    """What it takes is its guest's. How soon the guest's kernel ends it is the guest's matter."""
    assert unbound(attacker_here, "memory", 2 * GUEST_MIB) == "held"
    async with attack_lab.node() as node, attacker(node) as one, attacker(node) as other:
        vmm = vmm_of(one)
        enough = resident_mib(vmm) + GUEST_MIB // 2
        async with unharmed(other), asyncio.TaskGroup() as tasks:
            bomb = tasks.create_task(one.does("memory", 2 * GUEST_MIB))
            assert await asyncio.to_thread(
                poll, lambda: resident_mib(vmm) > enough or bomb.done() or None, limit=LIMIT
            )
            for _ in range(20):
                assert await other.does() == ANSWERED
                assert resident_mib(vmm) * MIB < LIMITS.memory_bytes
            bomb.cancel()
        await node.terminate(one.spec)
        assert isinstance(await ended(node), Terminated)


async def test_a_disk_filler(attack_lab: NodeLab, attacker_here: Path, tmp_path: Path) -> None:
    most = DISK_BYTES // MIB
    filler = tmp_path / "filler"
    assert unbound(attacker_here, "fill", 2 * most, FILLER=os.fspath(filler)) == f"{2 * most} done"
    filler.unlink()
    async with attack_lab.node() as node, attacker(node) as one, attacker(node) as other:
        files = node.equipment.paths.microvm(one.spec.microvm_id)
        async with unharmed(other):
            wrote, why = (await one.does("fill", 2 * most)).split(" ", 1)
        assert why == "No space left on device"
        assert 0 < int(wrote) < most
        taken = sum(path.stat().st_blocks * 512 for path in files.directory.rglob("*"))
        assert taken < DISK_BYTES + 16 * MIB, "the overlay and what QEMU keeps of it"
        assert await one.does("fill", 1) != "", "it goes on with a full disk"


@pytest.mark.parametrize("kind", ["flood", "lines"])
async def test_a_log_flood(kind: str, attack_lab: NodeLab, attacker_here: Path) -> None:
    """As fast as the guest can, in lines and in empty ones."""
    size = 4000
    assert len(unbound(attacker_here, kind, 2)) > MIB, "nothing here drops a byte"
    async with attack_lab.node() as node, attacker(node) as one, attacker(node) as other:
        before = resident_mib(os.getpid())
        async with unharmed(other):
            assert await one.does(kind, size) == "begun"
            seen = 0
            stream = node.equipment.logs.follow(one.spec.log.group, one.spec.log.stream)
            async for entry in stream:
                seen += 1
                if "bytes of older log were dropped" in entry.text:
                    break
            await stream.aclose()
            for _ in range(20):
                assert await one.does() == "well"
        assert resident_mib(os.getpid()) - before < OWN_GROWTH_MIB
        kept = attack_lab.directory / "root" / "logs"
        assert sum(path.stat().st_size for path in kept.rglob("*.log")) < 64 * MIB
        await node.terminate(one.spec)
        assert isinstance(await ended(node), Terminated)
