"""A bit that was flipped in a snapshot starts nothing; with the check off, the guest runs with it.

The application (`lifecycle.c`) answers with a text that lies in its memory, so that a changed one
shows. Times of the files are set back, as whoever changes them would.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from microvmd.messages.node import (
    Died,
    MicrovmSpec,
    ResumeFailed,
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendMicrovm,
    Terminated,
    VersionKey,
)
from microvmd.node.kms import Kms
from microvmd.node.paths import NodePaths
from microvmd.node.plain import PlainDirectory
from microvmd.node.sparse import blocks
from microvmd.node.vault import Vault
from tests.nodelab import ACCOUNT, LIMIT, VERSION, NodeLab, RunningNode, ask, spec_of

pytestmark = [pytest.mark.security, pytest.mark.vm, pytest.mark.root, pytest.mark.anyio]

ANSWER = b"no such path"
CHANGED = b"oo such path"
KEPT = "kept-for-later"
OTHER = VersionKey(ACCOUNT, "other", "1.0")
IMAGE_FILES = ("memory", "device", "disk.raw", "rootfs.erofs", "manifest.json")
SUSPEND_FILES = ("memory.diff", "device", "overlay.qcow2", "manifest.json")


@pytest.fixture(scope="module")
def lab() -> Iterator[NodeLab]:
    """A node with an image version, and another version with the same content."""
    with NodeLab.with_image() as lab:
        paths = NodePaths(lab.directory / "root")
        made, copy = paths.image(VERSION).directory, paths.image(OTHER).directory
        copy.parent.mkdir(parents=True)
        subprocess.run(["cp", "-a", made, copy], check=True, timeout=60)
        yield lab


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """One bit in the middle of what the file holds, with the old times; taken back at the end."""
    with path.open("rb", buffering=0) as file:
        held = [offset for offset, _ in blocks(file.fileno())]
        offset = held[len(held) // 2] + 100
        if offset >= os.fstat(file.fileno()).st_size:
            offset = held[-1]
    flip(path, offset)
    try:
        yield
    finally:
        if path.exists():
            flip(path, offset)


def flip(path: Path, offset: int) -> None:
    before = path.stat()
    with path.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), offset)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def started(node: RunningNode, spec: MicrovmSpec) -> str:
    await node.start(spec)
    return (await node.reports.next(Started)).edge_address


async def ended(node: RunningNode, spec: MicrovmSpec) -> None:
    await node.terminate(spec)
    await node.reports.next(Terminated)


@pytest.mark.parametrize("name", IMAGE_FILES)
async def test_a_flipped_bit_of_an_image_starts_nothing(lab: NodeLab, name: str) -> None:
    async with lab.node() as node:
        path = node.equipment.paths.image(VERSION).directory / name
        with flipped(path):
            spec = spec_of()
            await node.start(spec)
            died = await node.reports.next(Died)
            kind = "manifest" if name == "manifest.json" else f"file {name}"
            assert f"{kind} of the snapshot was changed" in died.reason
            assert "build the image again" in died.reason
            assert node.pid_of(spec) is None
            # Others do not suffer: they start from what is whole.
            other = replace(spec_of(), version=OTHER)
            await started(node, other)
            await ended(node, other)
        again = spec_of()
        await started(node, again)
        await ended(node, again)


@pytest.mark.parametrize("name", SUSPEND_FILES)
async def test_a_flipped_bit_of_a_suspend_snapshot_resumes_nothing(lab: NodeLab, name: str) -> None:
    async with lab.node() as node:
        spec = spec_of()
        address = await started(node, spec)
        assert await ask(address, "count") == "1"
        assert await ask(address, "put/kept") == "ok"
        await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))
        await node.reports.next(Suspended)
        with flipped(node.equipment.paths.microvm(spec.microvm_id).directory / name):
            resumed = replace(spec, generation=2)
            await node.agent.send(ResumeMicrovm(resumed))
            failed = await node.reports.next(ResumeFailed)
            kind = "manifest" if name == "manifest.json" else f"file {name}"
            assert f"{kind} of the snapshot was changed" in failed.reason
            assert node.pid_of(spec) is None
        resumed = replace(spec, generation=3)
        await node.agent.send(ResumeMicrovm(resumed))
        address = (await node.reports.next(Started)).edge_address
        assert (await ask(address, "count"), await ask(address, "get")) == ("2", "kept")
        await ended(node, resumed)


async def _nothing(address: str) -> bytes:
    async with httpx.AsyncClient(timeout=LIMIT, trust_env=False) as client:
        answer = await client.get(f"http://{address}:8080/nothing")
    assert answer.status_code == 404
    return answer.content


def _in_memory(path: Path) -> list[int]:
    """Where the application's answer lies in a memory file."""
    found = []
    with path.open("rb", buffering=0) as file:
        for offset, block in blocks(file.fileno()):
            place = block.find(ANSWER)
            while place >= 0:
                found.append(offset + place)
                place = block.find(ANSWER, place + 1)
    return found


async def test_without_the_check_the_guest_runs_what_was_changed(lab: NodeLab) -> None:
    async with lab.node() as node:
        memory = node.equipment.paths.image(VERSION).memory
        spec = spec_of()
        assert await _nothing(await started(node, spec)) == ANSWER
        await ended(node, spec)
        places = _in_memory(memory)
        assert places
        for place in places:
            flip(memory, place)
        spec = spec_of()
        await node.start(spec)
        assert "file memory of the snapshot was changed" in (await node.reports.next(Died)).reason
    try:
        await _run_unchecked(lab)
    finally:
        for place in places:
            flip(memory, place)


async def _run_unchecked(lab: NodeLab) -> None:
    """Image and suspend snapshot: what the guest put into its memory was changed in the diff."""
    async with lab.node() as node, Kms(lab.kms) as kms:
        equipment = node.equipment
        plain = PlainDirectory(lab.plain)
        vault = Vault(equipment.paths, equipment.stamp, plain, kms, checked=False)
        object.__setattr__(equipment, "vault", vault)
        spec = spec_of()
        address = await started(node, spec)
        assert await _nothing(address) == CHANGED
        assert await ask(address, f"put/{KEPT}") == "ok"
        await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))
        await node.reports.next(Suspended)
        diff = equipment.paths.microvm(spec.microvm_id).directory / "memory.diff"
        places = [found.start() for found in re.finditer(KEPT.encode(), diff.read_bytes())]
        assert places
        for place in places:
            flip(diff, place)
        resumed = replace(spec, generation=2)
        await node.agent.send(ResumeMicrovm(resumed))
        address = (await node.reports.next(Started)).edge_address
        assert await ask(address, "get") == KEPT.replace("k", "j", 1)
        await ended(node, resumed)
