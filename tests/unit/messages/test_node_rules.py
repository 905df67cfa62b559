"""Every field of everything that a message can hold has a rule."""

import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest

from microvmd.messages.node import SuspendMicrovm, VersionKey
from microvmd.messages.node_requests import FromNode, FromService, Keep
from microvmd.messages.node_rules import RULES, RuleBroken, check


def _parts(kind: object) -> Iterator[type]:
    """The dataclasses that a type can hold, itself too."""
    if isinstance(kind, type) and is_dataclass(kind):
        yield kind
        for inner in typing.get_type_hints(kind).values():
            yield from _parts(inner)
    for inner in typing.get_args(kind):
        yield from _parts(inner)


def test_no_field_is_without_a_rule() -> None:
    kinds = {*_parts(FromService), *_parts(FromNode)}
    assert kinds == set(RULES)
    for kind in kinds:
        assert {field.name for field in fields(kind)} == set(RULES[kind]), kind


def test_parts_of_parts_are_looked_at() -> None:
    good = VersionKey("000000000000", "app", "1.0")
    check(Keep(versions=frozenset({good})))
    with pytest.raises(RuleBroken, match=r"VersionKey\.image_name"):
        check(Keep(versions=frozenset({good, VersionKey("000000000000", "..", "1.0")})))


@pytest.mark.parametrize("generation", [0, -1, 2**53 + 1])
def test_numbers_have_a_range(generation: int) -> None:
    with pytest.raises(RuleBroken, match=r"SuspendMicrovm\.generation"):
        check(SuspendMicrovm("microvm-00000000-0000-4000-8000-000000000000", generation))
