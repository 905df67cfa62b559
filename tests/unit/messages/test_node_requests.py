"""Every command that is refused has a report that settles its state."""

from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings

from microvmd.messages.node import (
    Command,
    FreeSnapshot,
    ResumeFailed,
    ResumeMicrovm,
    RetireVersion,
)
from microvmd.messages.node_requests import failure_of
from microvmd.messages.node_wire import FROM_NODE
from tests.nodemessages import SPECS, messages


@pytest.mark.parametrize("kind", get_args(Command), ids=lambda kind: kind.__name__)
def test_each_refused_command_is_answered(kind: type) -> None:
    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(messages((kind,)))
    def answered(command: Command) -> None:
        report = failure_of(command, "no")
        if isinstance(command, RetireVersion | FreeSnapshot):
            assert report is None, "nobody waits for one"
            return
        assert FROM_NODE.encode(report)
        assert "no" in (getattr(report, "reason", None), getattr(report, "error", None))

    answered()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SPECS)
def test_a_resume_that_is_refused_loses_nothing(spec: object) -> None:
    report = failure_of(ResumeMicrovm(spec), "no")  # type: ignore[arg-type]
    assert isinstance(report, ResumeFailed)
