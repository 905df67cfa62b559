"""The stopwatch: steps by name, in ms, also of what fails, and their total."""

import pytest

from microvmd.node.timings import Timings


def test_steps_and_total() -> None:
    timings = Timings()
    with timings.step("vmm"), timings.step("guest.restored"):
        pass
    ended = timings.ended()
    assert list(ended) == ["guest.restored", "vmm", "total"]
    assert 0 <= ended["guest.restored"] <= ended["vmm"] <= ended["total"] + 0.01


def test_when_steps_began() -> None:
    timings = Timings()
    with timings.step("files"):
        pass
    with timings.step("vmm"):
        pass
    ended = timings.ended()
    assert timings.begun > 1.7e9
    assert 0 <= timings.offsets["files"] <= timings.offsets["vmm"] <= ended["total"]
    assert timings.offsets["files"] + ended["files"] <= timings.offsets["vmm"] + 0.02


def fail(timings: Timings) -> None:
    with timings.step("vmm"):
        raise KeyError


def test_a_step_that_fails_is_counted() -> None:
    timings = Timings()
    with pytest.raises(KeyError):
        fail(timings)
    assert set(timings.ended()) == {"vmm", "total"}


def test_an_answer_does_not_change_later() -> None:
    timings = Timings()
    before = timings.ended()
    with timings.step("late"):
        pass
    assert "late" not in before
