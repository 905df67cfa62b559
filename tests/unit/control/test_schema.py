"""The tables of the code are those that the migrations make, and their indexes are used."""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, event, text

from microvmd.control.schema import metadata
from microvmd.control.store import Store, Transaction
from microvmd.model.microvm import Phase
from tests.unit.control.plane import ACCOUNT
from tests.unit.control.test_store import microvm

pytestmark = pytest.mark.anyio


async def test_migrations_make_these_tables(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with Store.at(path):
        pass
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_an_operation_of_the_longest_image_name_fits() -> None:
    operation = metadata.tables["client_tokens"].columns["operation"]
    assert len("UpdateMicrovmImage " + "n" * 64) <= operation.type.length  # type: ignore[attr-defined]


async def test_old_records_learn_when_they_ended(tmp_path: Path) -> None:
    """The column that the sweep goes by is filled from the documents."""
    path = tmp_path / "state.db"
    engine = create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", "microvmd.control:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for number, phase, ended in ((1, "TERMINATED", 12.5), (2, "RUNNING", None)):
            connection.execute(
                text(
                    "INSERT INTO microvms (microvm_id, account, endpoint_id, image_arn, "
                    "image_version, phase, document) VALUES (:id, :account, :id, 'a', '1.0', "
                    ":phase, :document)"
                ),
                {
                    "id": f"microvm-{number}",
                    "account": ACCOUNT,
                    "phase": phase,
                    "document": json.dumps({"terminated_at": ended}),
                },
            )
    engine.dispose()
    async with Store.at(path) as store:
        assert await store.run(lambda tx: tx.forget_terminated(12.0, 9)) == 0
        assert await store.run(lambda tx: tx.forget_terminated(13.0, 9)) == 1


ARN = "arn:aws:lambda:us-east-1:000000000000:microvm-image:app"
Reading = Callable[[Transaction], object]
LISTS: dict[str, Reading] = {
    "all": lambda tx: tx.microvms(ACCOUNT, limit=51),
    "next page": lambda tx: tx.microvms(ACCOUNT, before=1000, limit=51),
    "image": lambda tx: tx.microvms(ACCOUNT, image_arn=ARN, limit=51),
    "image, next page": lambda tx: tx.microvms(ACCOUNT, image_arn=ARN, before=1000, limit=51),
    "image and version": lambda tx: tx.microvms(
        ACCOUNT, image_arn=ARN, image_version="1.0", limit=51
    ),
    "image and version, next page": lambda tx: tx.microvms(
        ACCOUNT, image_arn=ARN, image_version="1.0", before=1000, limit=51
    ),
    "version": lambda tx: tx.microvms(ACCOUNT, image_version="1.0", limit=51),
    "version, next page": lambda tx: tx.microvms(
        ACCOUNT, image_version="1.0", before=1000, limit=51
    ),
}
LOOKS: dict[str, Reading] = {
    "one": lambda tx: tx.microvm("microvm-1"),
    "endpoint": lambda tx: tx.microvm_at("endpoint-1"),
    "not terminated": lambda tx: tx.microvms_not_terminated(),
    "forget": lambda tx: tx.forget_terminated(1000.0, 200),
    "replay": lambda tx: tx.client_token(ACCOUNT, "RunMicrovm", "token"),
}


@pytest.mark.parametrize("name", [*LISTS, *LOOKS])
async def test_no_statement_reads_all_microvms(tmp_path: Path, name: str) -> None:
    """However many there are: each statement seeks in an index, and lists come in its order."""
    statements: list[tuple[str, Any]] = []

    def keep(_c: object, _k: object, statement: str, values: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "DELETE", "UPDATE")):
            statements.append((statement, values))

    ended = replace(microvm(), phase=Phase.TERMINATED, terminated_at=10.0)
    async with Store.at(tmp_path / "state.db") as store:
        await store.run(lambda tx: tx.add_microvm(ended))
        event.listen(Engine, "before_cursor_execute", keep)
        try:
            await store.run(LISTS.get(name) or LOOKS[name])
        finally:
            event.remove(Engine, "before_cursor_execute", keep)
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as database:
        steps = [
            row[3]
            for statement, values in statements
            for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    assert steps
    assert not [step for step in steps if "SCAN" in step], steps
    if name in LISTS:
        # One search, by everything that is asked for, and no sorting after it.
        asked = 1 + sum(word in name for word in ("image", "version", "next page"))
        assert [step.count("?") for step in steps] == [asked], steps
