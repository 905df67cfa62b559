"""A node without VMMs tells of none."""

from microvmd.messages.capacity import Measured
from microvmd.model.capacity import Machine


def test_nothing_taken() -> None:
    assert not Measured(Machine(1, 1, 1, 1)).taken_mib
