"""When a MicroVM must be suspended or ended without anybody asking.

Idle means no bytes through the endpoint: work in the guest and its outbound traffic do not count
(recorded answers, section 2). The maximum duration counts suspended time too and is hard.
"""

from dataclasses import dataclass

from microvmd.model.microvm import Cause, Event, MicroVm, Phase


@dataclass(frozen=True, slots=True)
class Due:
    """An event to apply now."""

    event: Event
    cause: str | None = None


def due(microvm: MicroVm, now: float) -> Due | None:
    """What is due at ``now`` (wall-clock seconds)."""
    if not microvm.phase.live:
        return None
    if now >= microvm.expires_at:
        return Due(Event.TERMINATE_REQUESTED, Cause.MAXIMUM_DURATION.value)
    policy = microvm.idle_policy
    if policy is None:
        return None
    if microvm.phase is Phase.RUNNING and now >= _idle_at(microvm):
        return Due(Event.SUSPEND_REQUESTED)
    if (
        microvm.phase is Phase.SUSPENDED
        and microvm.suspended_at is not None
        and now >= microvm.suspended_at + policy.suspended_s
    ):
        return Due(Event.TERMINATE_REQUESTED, Cause.SUSPENDED_DURATION.value)
    return None


def idle_at(microvm: MicroVm) -> float | None:
    """When a RUNNING MicroVM counts as idle if no byte passes before; None = never."""
    if microvm.idle_policy is None or microvm.phase is not Phase.RUNNING:
        return None
    return _idle_at(microvm)


def next_look(microvm: MicroVm) -> float | None:
    """When something may be due, if nothing happens before; None = never."""
    if not microvm.phase.live:
        return None
    times = [microvm.expires_at]
    policy = microvm.idle_policy
    if policy is not None and microvm.phase is Phase.RUNNING:
        times.append(_idle_at(microvm))
    if policy is not None and microvm.phase is Phase.SUSPENDED and microvm.suspended_at is not None:
        times.append(microvm.suspended_at + policy.suspended_s)
    return min(times)


def _idle_at(microvm: MicroVm) -> float:
    assert microvm.idle_policy is not None
    return (microvm.active_at or microvm.started_at) + microvm.idle_policy.max_idle_s
