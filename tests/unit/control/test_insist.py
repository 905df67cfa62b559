"""What the store cannot take now is tried again; what is wrong is told at once."""

import asyncio
import errno
from pathlib import Path

import pytest

from microvmd.control import insist as module
from microvmd.control.insist import insist
from microvmd.control.store import Store, Transaction
from microvmd.model.errors import NotFound, StoreUnavailable
from tests.unit.control.test_store import microvm

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.0)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        StoreUnavailable("the record cannot be written: its disk is full"),
    ],
)
async def test_want_of_disk_passes(error: Exception) -> None:
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise error

    await insist(work, "a report")
    assert tries == 4


async def test_any_other_failure_is_the_callers() -> None:
    async def work() -> None:
        raise NotFound("MicroVM not found: m")

    with pytest.raises(NotFound):
        await insist(work, "a report")


async def test_a_store_that_is_full(tmp_path: Path) -> None:
    """The real error of a real store, which may grow again after a while."""
    async with Store.at(tmp_path / "state.db") as store:
        await store.run(lambda tx: _pages(tx, 1))
        failed = asyncio.Event()

        async def work() -> None:
            try:
                await store.run(_add_many)
            except StoreUnavailable:
                failed.set()
                raise

        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(insist(work, "a report"))
            await failed.wait()
            assert not working.done()
            await store.run(lambda tx: _pages(tx, 1 << 20))
        assert await store.run(lambda tx: tx.microvm(microvm(99).microvm_id)) is not None


def _pages(tx: Transaction, most: int) -> None:
    """SQLite never takes less than the database has."""
    tx._connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")


def _add_many(tx: Transaction) -> None:
    for number in range(100):
        tx.add_microvm(microvm(number))
