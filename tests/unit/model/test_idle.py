"""What is due when."""

from dataclasses import replace

import pytest

from microvmd.model.idle import Due, due, next_look
from microvmd.model.microvm import Event, IdlePolicy, MicroVm, Phase

POLICY = IdlePolicy(max_idle_s=60, suspended_s=300, auto_resume=True)
RUNNING = MicroVm(
    microvm_id="microvm-1",
    account="0" * 12,
    endpoint_id="e",
    image_arn="arn",
    image_version="1.0",
    phase=Phase.RUNNING,
    generation=1,
    started_at=0.0,
    active_at=10.0,
    maximum_duration_s=1000,
    idle_policy=POLICY,
)
SUSPENDED = replace(RUNNING, phase=Phase.SUSPENDED, suspended_at=100.0)


@pytest.mark.parametrize(
    ("microvm", "now", "expected"),
    [
        (RUNNING, 69.9, None),
        (RUNNING, 70.0, Due(Event.SUSPEND_REQUESTED)),
        (replace(RUNNING, idle_policy=None), 999.9, None),
        (RUNNING, 1000.0, Due(Event.TERMINATE_REQUESTED, "Maximum duration exceeded.")),
        (SUSPENDED, 399.9, None),
        (SUSPENDED, 400.0, Due(Event.TERMINATE_REQUESTED, "Suspended duration exceeded.")),
        (
            replace(SUSPENDED, idle_policy=replace(POLICY, suspended_s=0)),
            100.0,
            Due(Event.TERMINATE_REQUESTED, "Suspended duration exceeded."),
        ),
        (replace(SUSPENDED, idle_policy=None), 999.0, None),
        (replace(RUNNING, phase=Phase.SUSPENDING), 500.0, None),
        (replace(RUNNING, phase=Phase.TERMINATED), 5000.0, None),
    ],
)
def test_due(microvm: MicroVm, now: float, expected: Due | None) -> None:
    assert due(microvm, now) == expected


@pytest.mark.parametrize(
    ("microvm", "expected"),
    [
        (RUNNING, 70.0),
        (SUSPENDED, 400.0),
        (replace(RUNNING, idle_policy=None), 1000.0),
        (replace(RUNNING, phase=Phase.TERMINATING), None),
    ],
)
def test_next_look(microvm: MicroVm, expected: float | None) -> None:
    assert next_look(microvm) == expected
