"""The tables of the code are those that the migrations make."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from microvmd.control.schema import metadata
from microvmd.control.store import Store

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
