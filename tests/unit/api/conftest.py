"""The operations of the model, and hypothesis strategies made from its shapes."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape
from hypothesis import strategies as st

from microvmd.api.operations import Operation, load_operations

Values = Callable[[Shape], st.SearchStrategy[Any]]

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@pytest.fixture(scope="session")
def operations() -> dict[str, Operation]:
    return {operation.name: operation for operation in load_operations()}


@pytest.fixture(scope="session")
def values() -> Values:
    """Shape to strategy: any value of that type, in the model's numeric ranges and enums."""
    return _values


def _values(shape: Shape) -> st.SearchStrategy[Any]:
    match shape:
        case StructureShape():
            return _structures(shape)
        case ListShape():
            return st.lists(_values(shape.member), min_size=1, max_size=3)
        case MapShape():
            return st.dictionaries(_TEXT, _values(shape.value), max_size=3)
        case StringShape() if shape.enum:
            return st.sampled_from(list(shape.enum))
    match shape.type_name:
        case "integer" | "long":
            top = 2**31 - 1 if shape.type_name == "integer" else 2**63 - 1
            return st.integers(shape.metadata.get("min", -top), shape.metadata.get("max", top))
        case "boolean":
            return st.booleans()
        case "timestamp":
            moments = st.integers(0, 4_000_000_000_000)
            return moments.map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))
        case "string":
            return _TEXT
    raise AssertionError(f"no strategy for {shape.type_name}")


def _structures(shape: StructureShape) -> st.SearchStrategy[dict[str, Any]]:
    members = {name: _values(member) for name, member in shape.members.items()}
    if shape.is_tagged_union:
        return st.one_of([st.fixed_dictionaries({n: member}) for n, member in members.items()])
    required = {name: members[name] for name in shape.required_members}
    optional = {name: member for name, member in members.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)
