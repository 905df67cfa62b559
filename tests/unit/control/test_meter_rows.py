"""Usage as rows: hours add up however often a meter turns; one without a meter changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.control.store import Store
from microvmd.model.metering import HOUR_S
from microvmd.model.microvm import Phase
from tests.unit.control.test_store import microvm

pytestmark = pytest.mark.anyio


async def test_turns_within_an_hour_are_one_row(tmp_path: Path) -> None:
    now = [float(HOUR_S)]
    made = replace(microvm(1), phase=Phase.PENDING, memory_mib=2048)
    async with Store.at(tmp_path / "state.db", lambda: now[0]) as store:
        await store.run(lambda tx: tx.add_microvm(made))
        for phase in (Phase.RUNNING, Phase.SUSPENDING, Phase.RUNNING, Phase.TERMINATED):
            now[0] += 7
            moved = replace(made, phase=phase)
            await store.run(lambda tx, moved=moved: tx.save_microvm(moved))  # type: ignore[misc]
        (used,) = await store.run(lambda tx: tx.meters.of(made.account, HOUR_S, 2 * HOUR_S))
        assert (used.microvm_id, used.image_arn) == (made.microvm_id, made.image_arn)
        assert used.usage.running_s == 21
        # Ended: nothing more is used, and one row is all there is to forget.
        now[0] += 1000
        (again,) = await store.run(lambda tx: tx.meters.of(made.account, HOUR_S, 2 * HOUR_S))
        assert again == used
        assert await store.run(lambda tx: tx.meters.forget(1e9, 10)) == 1


async def test_a_microvm_without_a_meter_is_left_alone(tmp_path: Path) -> None:
    async with Store.at(tmp_path / "state.db", lambda: 10.0) as store:
        await store.run(lambda tx: tx.meters.turn(Phase.RUNNING, microvm(1)))
        assert await store.run(lambda tx: tx.meters.of(microvm(1).account, 0, HOUR_S)) == []
