"""The operations of the model."""

import pytest

from microvmd.api.operations import Operation, load_operations


@pytest.fixture(scope="session")
def operations() -> dict[str, Operation]:
    return {operation.name: operation for operation in load_operations()}
