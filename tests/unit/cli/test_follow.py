"""The builder's steps as they appear in a build log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.cli.follow import Step


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("STEP 1/7: FROM microvmd/python:3", Step(1, 7, "FROM microvmd/python:3")),
        ("[1/2] STEP 3/4: COPY . .", Step(3, 4, "COPY . .")),
        ("STEP 2: RUN x", Step(2, None, "RUN x")),
        ("--> Using cache", None),
        ("echo STEP 1/2: no", None),
    ],
)
def test_steps(line: str, step: Step | None) -> None:
    assert Step.parse(line) == step


@given(st.text())
def test_any_line_is_read(line: str) -> None:
    Step.parse(line)
