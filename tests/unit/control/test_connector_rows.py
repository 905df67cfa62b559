"""Rows of connectors: found by id before name and alive before deleted, in order, in pages."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from microvmd.control.store import Store, Transaction
from microvmd.model.vpc_connector import (
    Connector,
    ConnectorState,
    ConnectorVersion,
    Failure,
    FailureCode,
    UpdateStatus,
    VpcEgress,
)
from tests.unit.control.plane import ACCOUNT, REGION

pytestmark = pytest.mark.anyio

S = ConnectorState


def connector(number: int, name: str, state: ConnectorState = S.ACTIVE, **more: Any) -> Connector:
    return Connector(ACCOUNT, REGION, f"nc-{number}", name, 1.5, float(number), state, **more)


def version(connector_id: str, number: int, state: ConnectorState = S.ACTIVE) -> ConnectorVersion:
    config = VpcEgress(("subnet-1",), "IPv4", ("MicroVm",), ("sg-1",), "ServiceManaged")
    return ConnectorVersion(ACCOUNT, connector_id, number, config, "role", 1.5, state)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.at(tmp_path / "state.db") as opened:
        yield opened


async def test_what_is_written_is_read(store: Store) -> None:
    whole = connector(
        1,
        "net",
        S.FAILED,
        failure=Failure(FailureCode.INVALID_SUBNET, "why"),
        current=2,
        newest=3,
        update_status=UpdateStatus.FAILED,
        update_reason="why",
        update_code=FailureCode.INTERNAL_ERROR,
        tags={"a": "1"},
    )

    def write(tx: Transaction) -> None:
        tx.connectors.add(whole)
        tx.connectors.add_version(version("nc-1", 1))

    await store.run(write)
    assert await store.run(lambda tx: tx.connectors.by_id("nc-1")) == whole
    assert await store.run(lambda tx: tx.connectors.find(ACCOUNT, "net")) == whole
    assert await store.run(lambda tx: tx.connectors.version("nc-1", 1)) == version("nc-1", 1)
    assert await store.run(lambda tx: tx.connectors.version("nc-1", 2)) is None


async def test_an_id_wins_over_a_name_and_the_living_over_the_deleted(store: Store) -> None:
    def write(tx: Transaction) -> None:
        tx.connectors.add(connector(1, "net"))
        tx.connectors.add(connector(2, "net", S.DELETED))
        tx.connectors.add(connector(3, "nc-2"))
        tx.connectors.add(connector(4, "gone", S.DELETED))
        tx.connectors.add(connector(5, "gone", S.DELETED))

    await store.run(write)
    for key, found in (("net", "nc-1"), ("nc-2", "nc-2"), ("gone", "nc-5"), ("nc-4", "nc-4")):
        got = await store.run(lambda tx, key=key: tx.connectors.find(ACCOUNT, key))  # type: ignore[misc]
        assert got is not None
        assert got.connector_id == found
    assert await store.run(lambda tx: tx.connectors.find("111122223333", "net")) is None
    assert await store.run(lambda tx: tx.connectors.count(ACCOUNT)) == 2
    await store.run(lambda tx: tx.connectors.forget_deleted(5.0))
    assert await store.run(lambda tx: tx.connectors.by_id("nc-4")) is None
    assert await store.run(lambda tx: tx.connectors.by_id("nc-5")) is not None


async def test_pages_and_states(store: Store) -> None:
    def write(tx: Transaction) -> None:
        for number in (1, 2, 3):
            state = S.PENDING if number == 2 else S.ACTIVE
            tx.connectors.add(connector(number, f"n{number}", state))
        tx.connectors.add(connector(4, "n4", S.DELETED))

    await store.run(write)
    rows = await store.run(lambda tx: tx.connectors.page(ACCOUNT, limit=2))
    assert [found.name for _, found in rows] == ["n3", "n2"]
    rest = await store.run(lambda tx: tx.connectors.page(ACCOUNT, before=rows[-1][0]))
    assert [found.name for _, found in rest] == ["n1"]
    pending = await store.run(lambda tx: tx.connectors.page(ACCOUNT, state=S.PENDING))
    assert [found.name for _, found in pending] == ["n2"]
    found = await store.run(lambda tx: tx.connectors.in_state(S.PENDING, S.DELETED))
    assert [one.name for one in found] == ["n2", "n4"]


async def test_versions(store: Store) -> None:
    def write(tx: Transaction) -> None:
        for number in (1, 2, 3):
            tx.connectors.add_version(version("nc-1", number))
        tx.connectors.add_version(version("nc-2", 1, S.DELETING))
        tx.connectors.save_version(version("nc-1", 2, S.FAILED))
        tx.connectors.remove_versions("nc-1", [3])

    await store.run(write)
    listed = await store.run(lambda tx: tx.connectors.versions("nc-1"))
    assert [one.number for one in listed] == [2, 1]
    failed = await store.run(lambda tx: tx.connectors.versions("nc-1", state=S.FAILED))
    assert [one.number for one in failed] == [2]
    older = await store.run(lambda tx: tx.connectors.versions("nc-1", before=2, limit=5))
    assert [one.number for one in older] == [1]
    doomed = await store.run(lambda tx: tx.connectors.versions_in(S.DELETING))
    assert [one.connector_id for one in doomed] == ["nc-2"]
