"""Client tokens: the same request replays, another conflicts, nothing is remembered without."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from microvmd.control.replay import remember, replayed
from microvmd.control.store import Store, Transaction
from microvmd.model.errors import Conflict
from tests.unit.control.plane import ACCOUNT

pytestmark = pytest.mark.anyio

REQUEST = {"clientToken": "t", "name": "app", "tags": {"b": "2", "a": "1"}}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.at(tmp_path / "state.db") as opened:
        await opened.run(lambda tx: remember(tx, ACCOUNT, "op", REQUEST, "arn:app", 10.0))
        yield opened


async def look(store: Store, request: dict[str, Any], operation: str = "op") -> str | None:
    return await store.run(lambda tx: replayed(tx, ACCOUNT, operation, request))


async def test_the_same_request_replays(store: Store) -> None:
    assert await look(store, REQUEST) == "arn:app"
    reordered = {"tags": {"a": "1", "b": "2"}, "name": "app", "clientToken": "t"}
    assert await look(store, reordered) == "arn:app"


@pytest.mark.parametrize("change", [{"name": "other"}, {"tags": {}}, {"description": "new"}])
async def test_another_request_with_the_token_conflicts(
    store: Store, change: dict[str, Any]
) -> None:
    with pytest.raises(Conflict):
        await look(store, {**REQUEST, **change})


async def test_tokens_are_of_one_account_and_operation(store: Store) -> None:
    assert await look(store, REQUEST, operation="other") is None
    assert await look(store, {**REQUEST, "clientToken": "u"}) is None
    other = await store.run(lambda tx: replayed(tx, "111122223333", "op", REQUEST))
    assert other is None


async def test_without_a_token_nothing_is_remembered(store: Store) -> None:
    def twice(tx: Transaction) -> str | None:
        for _ in range(2):
            remember(tx, ACCOUNT, "op", {"name": "app"}, "arn:app", 10.0)
        return replayed(tx, ACCOUNT, "op", {"name": "app"})

    assert await store.run(twice) is None
