"""A guest under Firecracker that writes while the node's disk is full is told so, and goes on.

Under QEMU it waits instead (`test_full_disk.py`). Collected where nodes of tests use Firecracker.
"""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from microvmd.messages.node import ResumeMicrovm, Started, Suspended
from tests.nodelab import LIMIT, NodeLab, ask, spec_of
from tests.vm.test_microvm import gone, small_home, started, suspend

pytestmark = [pytest.mark.vm, pytest.mark.anyio]


async def put(address: str, text: str) -> int:
    """Have the application write and sync a file; gives the status of its answer."""
    async with httpx.AsyncClient(timeout=LIMIT, trust_env=False) as client:
        return (await client.get(f"http://{address}:8080/put/{text}")).status_code


async def test_a_write_that_finds_no_room_fails(node_lab: NodeLab, tmp_path: Path) -> None:
    spec = spec_of()
    with small_home(node_lab, tmp_path) as disk:
        async with node_lab.node() as node:
            address = await started(node, spec)
            with disk.full():
                assert await put(address, "early") == 500
            assert await put(address, "late") == 200
            await suspend(node, spec)
            await node.reports.next(Suspended)
            again = replace(spec, generation=2)
            await node.agent.send(ResumeMicrovm(again))
            address = (await node.reports.next(Started)).edge_address
            assert await ask(address, "get") == "late"
            await gone(node, again)
