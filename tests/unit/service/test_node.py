"""One node at a time; what it does is shown in tests/faults and tests/security."""

import asyncio
import fcntl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from microvmd.service.node import _lock, _networks

pytestmark = pytest.mark.anyio


async def test_a_node_waits_for_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as former:
        fcntl.flock(former, fcntl.LOCK_EX)
        async with asyncio.timeout(20), AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(_lock(stack, path))
            done, _ = await asyncio.wait({waiting}, timeout=0.2)
            assert not done
            fcntl.flock(former, fcntl.LOCK_UN)
            await waiting


def test_the_mapping_is_read_from_the_operators_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[network.subnets]\nsubnet-1 = ["10.1.0.0/16"]\n')
    monkeypatch.setenv("MICROVMD_CONFIG", str(file))
    assert list(_networks().subnets) == ["subnet-1"]
