"""Events as rows: each filter, alone."""

from pathlib import Path

import pytest

from microvmd.control.event_rows import EventQuery
from microvmd.control.store import Store, Transaction
from microvmd.model.event import Kind, StateChange

pytestmark = pytest.mark.anyio

ACCOUNTS = ("000000000001", "000000000002")


async def _found(store: Store, query: EventQuery, **options: int) -> list[str]:
    options.setdefault("limit", 10)
    events = await store.run(lambda tx: tx.events.page(query, **options))
    return [event.change.after for event in events]


async def test_filters(tmp_path: Path) -> None:
    now = [0.0]

    def write(tx: Transaction) -> None:
        kind = Kind.IMAGE if now[0] % 2 else Kind.MICROVM
        account = ACCOUNTS[int(now[0]) // 3]
        number = f"{now[0]:.0f}"
        tx.events.add(StateChange(kind, account, "r", f"t{number}", ("a",), None, f"s{number}"))

    async with Store(f"sqlite:///{tmp_path}/state.db", lambda: now[0]) as store:
        for _ in range(6):
            await store.run(write)
            now[0] += 1
        every = [f"s{number}" for number in range(6)]
        assert await _found(store, EventQuery()) == every
        assert await _found(store, EventQuery(ACCOUNTS[1])) == every[3:]
        assert await _found(store, EventQuery(kind=Kind.IMAGE)) == every[1::2]
        assert await _found(store, EventQuery(resource="t4")) == ["s4"]
        assert await _found(store, EventQuery(since=4.0)) == every[4:]
        assert await _found(store, EventQuery(), after=2, limit=2) == every[2:4]
