"""MicroVMs that ended long ago are forgotten with their client tokens; others are not."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.control import retention
from microvmd.control.retention import forget_before, forget_ended
from microvmd.control.store import Store, Transaction
from microvmd.model.microvm import Phase
from tests.unit.control.plane import ACCOUNT
from tests.unit.control.test_store import microvm

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.at(tmp_path / "state.db") as opened:
        yield opened


async def _ended(store: Store, *times: float | None) -> None:
    """One MicroVM for each time of its end, with the client token that made it."""

    def write(tx: Transaction) -> None:
        for number, moment in enumerate(times):
            made = microvm(number)
            tx.add_microvm(made)
            tx.add_client_token(ACCOUNT, "RunMicrovm", f"t{number}", "f", made.microvm_id, 1.0)
            if moment is not None:
                tx.save_microvm(replace(made, phase=Phase.TERMINATED, terminated_at=moment))

    await store.run(write)


async def _left(store: Store) -> list[str]:
    found = await store.run(lambda tx: tx.microvms(ACCOUNT))
    return sorted(microvm.microvm_id for _, microvm in found)


async def _replays(store: Store, token: str) -> bool:
    found = await store.run(lambda tx: tx.client_token(ACCOUNT, "RunMicrovm", token))
    return found is not None


async def test_only_what_ended_before_is_forgotten(store: Store) -> None:
    await _ended(store, 10.0, None, 20.0, 19.0)
    assert await forget_before(store, 20.0) == 2
    assert await _left(store) == ["microvm-1", "microvm-2"]
    assert [await _replays(store, f"t{n}") for n in range(4)] == [False, True, True, False]


async def test_many_go_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 4)
    await _ended(store, *[1.0] * 10, None)
    assert await forget_before(store, 2.0) == 10
    assert await _left(store) == ["microvm-10"]


async def test_a_running_one_is_never_forgotten(store: Store) -> None:
    await _ended(store, None, None)
    assert await forget_before(store, 1e12) == 0


async def test_the_sweep_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SHORTEST_WAIT_S", 0.001)
    await _ended(store, 10.0, 200.0)
    now = 100.0
    sweeping = asyncio.timeout(10)
    async with sweeping, asyncio.TaskGroup() as tasks:
        work = tasks.create_task(forget_ended(store, 0.01, lambda: now))
        while len(await _left(store)) > 1:
            await store.run(lambda tx: None)
        now = 300.0
        while await _left(store):
            await store.run(lambda tx: None)
        work.cancel()
