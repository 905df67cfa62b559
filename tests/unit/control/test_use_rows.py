"""What is counted for an account, and that counting never walks over what has ended."""

import contextlib
import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from microvmd.control.store import Store, Transaction
from microvmd.model.microvm import MicroVm, Phase
from microvmd.model.quota import Use
from tests.unit.control.plane import ACCOUNT, CREATE, plane
from tests.unit.control.test_store import microvm

pytestmark = pytest.mark.anyio


def _add(row: MicroVm, tx: Transaction) -> None:
    tx.add_microvm(row)


async def test_phases_that_count(tmp_path: Path) -> None:
    async with Store.at(tmp_path / "state.db") as store:
        for number, phase in enumerate(Phase):
            row = replace(
                microvm(),
                microvm_id=f"microvm-{number}",
                endpoint_id=f"endpoint-{number}",
                phase=phase,
                memory_mib=1 << number,
            )
            await store.run(partial(_add, row))
        ended = 1 << list(Phase).index(Phase.TERMINATED)
        everything = (1 << len(Phase)) - 1
        assert await store.run(lambda tx: tx.use.of(ACCOUNT)) == Use(everything - ended)


async def test_images_and_their_versions(tmp_path: Path) -> None:
    async with plane(tmp_path) as found:
        await found.images.create(ACCOUNT, CREATE)
        assert await found.store.run(lambda tx: tx.use.of(ACCOUNT)) == Use(2048, 1, 1)
        await found.play_build()
        assert await found.store.run(lambda tx: tx.use.of(ACCOUNT)) == Use(0, 1, 0)
        assert await found.store.run(lambda tx: tx.use.versions(ACCOUNT, "app")) == 1


async def test_counts_are_ranges_of_indexes(tmp_path: Path) -> None:
    statements: list[tuple[str, Any]] = []

    def keep(_c: object, _k: object, statement: str, values: Any, *_: object) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, values))

    async with Store.at(tmp_path / "state.db") as store:
        event.listen(Engine, "before_cursor_execute", keep)
        try:
            await store.run(lambda tx: (tx.use.of(ACCOUNT), tx.use.versions(ACCOUNT, "app")))
        finally:
            event.remove(Engine, "before_cursor_execute", keep)
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as database:
        steps = [
            str(row[3])
            for statement, values in statements
            for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    assert any("microvms_by_use (account=? AND phase=?)" in step for step in steps), steps
    assert any("versions_by_state (account=? AND state=?)" in step for step in steps), steps
    assert not [step for step in steps if "SCAN" in step], steps
