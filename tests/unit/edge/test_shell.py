"""What a text frame of a client means: a hostile one above all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.edge.shell import Resize, parse_text


def test_a_resize_as_recorded() -> None:
    assert parse_text('{"type":"resize","cols":120,"rows":40}') == Resize(rows=40, cols=120)
    assert parse_text(' { "rows": 1, "type": "resize", "cols": 65535 } ') == Resize(1, 65535)


@pytest.mark.parametrize(
    "text",
    [
        "whoami\n",
        "",
        "{",
        "{}",
        '{"type":"unknown"}',
        '{"type":"resize"}',
        '{"type":"resize","cols":0,"rows":40}',
        '{"type":"resize","cols":65536,"rows":40}',
        '{"type":"resize","cols":true,"rows":40}',
        '{"type":"resize","cols":80.0,"rows":40}',
        '{"type":"resize","cols":"80","rows":40}',
        '[{"type":"resize","cols":80,"rows":40}]',
        '{"a":' * 2000,
        '{"type":"resize","cols":80,"rows":40}' + " " * 1000,
        "é",
    ],
)
def test_all_else_is_typed(text: str) -> None:
    assert parse_text(text) == text.encode()


@given(st.text(max_size=300) | st.recursive(st.integers() | st.text(), st.lists).map(json.dumps))
def test_nothing_else_comes_of_any_text(text: str) -> None:
    found = parse_text(text)
    assert isinstance(found, Resize) or found == text.encode()
