"""The handlers together are complete: each operation of the model has exactly one."""

from pathlib import Path

import pytest

from microvmd.api.operations import load_operations
from tests.unit.api.handling import handled


@pytest.mark.anyio
async def test_every_operation_has_a_handler(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        assert set(api.table) == {operation.name for operation in load_operations()}
