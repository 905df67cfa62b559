"""A node whose MicroVMs run `apps/attacker`, and that program where nothing holds it back.

The image has every capability, 256 MiB of memory and a small disk, so that bombs go off quickly.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from microvmd.build import capture
from microvmd.messages.node import Died, MicrovmSpec, Started, Terminated, VersionKey
from microvmd.model.egress import INTERNET, Egress
from microvmd.model.hooks import HookName, Hooks, HookSetting
from microvmd.model.size import Size
from microvmd.node.disk import create_disk
from microvmd.node.namespace import Visitor
from tests.netlab import Place
from tests.nodelab import ACCOUNT, READY_ONLY, NodeLab, RunningNode, ask, spec_of

PROGRAM = Path(__file__).parent / "apps" / "attacker" / "attacker.c"
MEMORY_MIB = 64
"""Of the baseline: the guest has four times as much."""
GUEST_MIB = 4 * MEMORY_MIB
DISK_BYTES = 96 << 20
FREE = VersionKey(ACCOUNT, "attacker", "1.0")
CONTAINED = VersionKey(ACCOUNT, "contained", "1.0")
USERS = VersionKey(ACCOUNT, "users", "1.0")
USER = "1000:50"
ANSWERED = "well"
PAUSE = 0.1
"""Seconds between two requests to a neighbour: they are to see an attack, not to be one."""


@contextmanager
def small_disks() -> Iterator[None]:
    """Images made meanwhile have a disk that is full after `DISK_BYTES`."""

    async def small(path: Path, size: int) -> None:
        await create_disk(path, min(size, DISK_BYTES))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "create_disk", small)
        yield


@contextmanager
def attack_lab() -> Iterator[NodeLab]:
    """A node with the attacker's images: with every capability, as usual, and as a user."""
    with NodeLab.made() as plain:
        lab = replace(plain, program=PROGRAM, memory_mib=MEMORY_MIB)

        async def build() -> None:
            async with lab.equipment() as equipment:
                await lab.capture(equipment, version=FREE, capabilities=("ALL",), hooks=READY_ONLY)
                await lab.capture(equipment, version=CONTAINED, hooks=READY_ONLY)
                await lab.capture(equipment, version=USERS, user=USER, hooks=READY_ONLY)

        with small_disks():
            asyncio.run(build())
        yield lab


def unbound(program: Path, *words: object, **environment: str) -> str:
    """What an attack comes to where nothing holds it back: on this machine, in bounds."""
    argv = [os.fspath(program), "do", *map(str, words)]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    return done.stdout.removesuffix("\n")


@dataclass(frozen=True)
class Attacker:
    """A MicroVM that attacks as it is told."""

    node: RunningNode
    spec: MicrovmSpec
    address: str

    async def does(self, *words: object) -> str:
        return await ask(self.address, "/".join(map(str, words)))

    @property
    def network(self) -> Path:
        """Its network namespace."""
        record = self.node.equipment.vmm_of(self.node.equipment.paths.microvm(self.spec.microvm_id))
        assert record is not None
        return self.node.lab.network_settings.namespaces / record.network

    def place(self, visitor: Visitor) -> Place:
        return Place(self.network, visitor)

    @property
    def root_address(self) -> str:
        settings = self.node.lab.network_settings
        return settings.slot(settings.index_of(self.network.name)).root_address


def hooked(*names: HookName, limit: int = 20) -> Hooks:
    """Hooks that take at most so many seconds."""
    return Hooks(9000, {name: HookSetting(True, limit) for name in (HookName.READY, *names)})


@asynccontextmanager
async def attacker(
    node: RunningNode,
    *,
    version: VersionKey = FREE,
    hooks: Hooks = READY_ONLY,
    egress: Egress = INTERNET,
) -> AsyncIterator[Attacker]:
    """One that runs; at the end it is terminated, or had ended by itself."""
    usual = spec_of(hooks, egress=egress)
    spec = replace(usual, version=version, size=Size.of(MEMORY_MIB))
    await node.start(spec)
    started = await node.reports.next(Started)
    made = Attacker(node, spec, started.edge_address)
    try:
        yield made
    finally:
        if node.pid_of(spec) is not None:
            await node.terminate(spec)
            await ended(node)


async def ended(node: RunningNode) -> Terminated | Died:
    """The next report, which says that a MicroVM is gone."""
    async with asyncio.timeout(60):
        report = await node.reports.queue.get()
    assert isinstance(report, Terminated | Died), report
    return report


@asynccontextmanager
async def unharmed(neighbour: Attacker) -> AsyncIterator[None]:
    """While this lasts a neighbour is asked again and again, and answers each time."""
    over = asyncio.Event()
    answers: list[str] = []

    async def go_on() -> None:
        limits = httpx.Timeout(30)
        async with httpx.AsyncClient(timeout=limits, trust_env=False) as client:
            while not over.is_set() or not answers:
                answer = await client.get(f"http://{neighbour.address}:8080/")
                answers.append(answer.text)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE):
                        await over.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on())
        try:
            yield
        finally:
            over.set()
    assert set(answers) == {ANSWERED}
