"""The MicroVM: its states, one transition table, and ``apply``, the only thing that sets a state.

A node reports, it never writes. Every report names the generation (one incarnation of the MicroVM
on a node: a run or a resume) that it speaks of; ``apply`` drops those of an older one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum, auto
from typing import Any, Self

from microvmd.model.errors import Conflict, ValidationError
from microvmd.model.image import Logging

DEFAULT_DURATION_S = 28800


class State(StrEnum):
    """States of the API."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"


class Phase(StrEnum):
    """Our states: the API's, and RESUMING, which callers see as SUSPENDED until /resume is 200."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    RESUMING = "RESUMING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"

    @property
    def state(self) -> State:
        return State.SUSPENDED if self is Phase.RESUMING else State(self.value)

    @property
    def live(self) -> bool:
        """Holds capacity and may still change by itself."""
        return self not in (Phase.TERMINATING, Phase.TERMINATED)

    @property
    def on_node(self) -> bool:
        """A VMM should exist, or is being made or ended."""
        return self not in (Phase.SUSPENDED, Phase.TERMINATED)


class Event(StrEnum):
    """What can happen: calls (…_REQUESTED) and reports of a node."""

    SUSPEND_REQUESTED = auto()
    RESUME_REQUESTED = auto()
    TERMINATE_REQUESTED = auto()
    STARTED = auto()
    SUSPENDED = auto()
    SUSPEND_FAILED = auto()
    RESUME_FAILED = auto()
    DIED = auto()
    TERMINATED = auto()
    UNFIT = auto()
    """Its node cannot restore the snapshot that it was started from; another one is being made."""
    REBUILT = auto()
    """There is another one."""


class Effect(StrEnum):
    """What a decision asks the outside to do, in order."""

    START = auto()
    SUSPEND = auto()
    RESUME = auto()
    TERMINATE = auto()
    ROUTE = auto()
    UNROUTE = auto()


class Cause(StrEnum):
    """Why a MicroVM ended; the value is its ``stateReason``."""

    REQUEST = "Success."
    MAXIMUM_DURATION = "Maximum duration exceeded."
    SUSPENDED_DURATION = "Suspended duration exceeded."
    NODE_LOST = "The MicroVM was lost: its VMM ended unexpectedly."


@dataclass(frozen=True, slots=True)
class IdlePolicy:
    """Seconds. ``suspended_s`` 0 = terminate as soon as suspended."""

    max_idle_s: int
    suspended_s: int
    auto_resume: bool

    @classmethod
    def from_request(cls, request: Mapping[str, Any] | None) -> Self | None:
        if request is None:
            return None
        return cls(
            request["maxIdleDurationSeconds"],
            request["suspendedDurationSeconds"],
            request["autoResumeEnabled"],
        )


@dataclass(frozen=True, slots=True)
class MicroVm:
    """One MicroVM. Times are wall-clock seconds; ``edge_address`` is where the edge dials;
    ``memory_mib`` is its baseline, kept as it was when it was run."""

    microvm_id: str
    account: str
    endpoint_id: str
    image_arn: str
    image_version: str
    phase: Phase
    generation: int
    started_at: float
    memory_mib: int = 0
    maximum_duration_s: int = DEFAULT_DURATION_S
    idle_policy: IdlePolicy | None = None
    ingress: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    execution_role_arn: str | None = None
    logging: Logging | None = None
    kms_key: str | None = None
    run_hook_payload: str | None = None
    state_reason: str | None = None
    terminated_at: float | None = None
    suspended_at: float | None = None
    active_at: float | None = None
    edge_address: str | None = None
    snapshot: str = ""
    """Which of its version's snapshots it is started from (``model.image.Version.snapshot``)."""
    waits: bool = False
    """PENDING for another snapshot of its version."""
    image_bytes: int = 0
    """Of the image snapshot that it was started from."""
    stored_bytes: int = 0
    """Of its own suspend snapshot, the last one."""
    grants: tuple[str, ...] = ()
    """Versions of the account's connectors that it was run with (``model.egress.grant_of``)."""

    @property
    def state(self) -> State:
        return self.phase.state

    @property
    def expires_at(self) -> float:
        return self.started_at + self.maximum_duration_s


Step = tuple[Phase, tuple[Effect, ...]]

_END: Step = (Phase.TERMINATING, (Effect.UNROUTE, Effect.TERMINATE))
_GONE: Step = (Phase.TERMINATED, (Effect.UNROUTE,))

TRANSITIONS: Mapping[tuple[Phase, Event], Step] = {
    (Phase.PENDING, Event.STARTED): (Phase.RUNNING, (Effect.ROUTE,)),
    (Phase.PENDING, Event.UNFIT): (Phase.PENDING, ()),
    (Phase.PENDING, Event.REBUILT): (Phase.PENDING, (Effect.START,)),
    (Phase.PENDING, Event.DIED): _GONE,
    (Phase.PENDING, Event.TERMINATE_REQUESTED): _END,
    (Phase.RUNNING, Event.SUSPEND_REQUESTED): (
        Phase.SUSPENDING,
        (Effect.UNROUTE, Effect.SUSPEND),
    ),
    (Phase.RUNNING, Event.RESUME_REQUESTED): (Phase.RUNNING, ()),
    (Phase.RUNNING, Event.TERMINATE_REQUESTED): _END,
    (Phase.RUNNING, Event.DIED): _GONE,
    (Phase.SUSPENDING, Event.SUSPEND_REQUESTED): (Phase.SUSPENDING, ()),
    (Phase.SUSPENDING, Event.SUSPENDED): (Phase.SUSPENDED, ()),
    (Phase.SUSPENDING, Event.SUSPEND_FAILED): (Phase.RUNNING, (Effect.ROUTE,)),
    (Phase.SUSPENDING, Event.TERMINATE_REQUESTED): _END,
    (Phase.SUSPENDING, Event.DIED): _GONE,
    (Phase.SUSPENDED, Event.SUSPEND_REQUESTED): (Phase.SUSPENDED, ()),
    (Phase.SUSPENDED, Event.RESUME_REQUESTED): (Phase.RESUMING, (Effect.RESUME,)),
    (Phase.SUSPENDED, Event.TERMINATE_REQUESTED): _END,
    (Phase.RESUMING, Event.RESUME_REQUESTED): (Phase.RESUMING, ()),
    (Phase.RESUMING, Event.STARTED): (Phase.RUNNING, (Effect.ROUTE,)),
    (Phase.RESUMING, Event.RESUME_FAILED): (Phase.SUSPENDED, ()),
    (Phase.RESUMING, Event.TERMINATE_REQUESTED): _END,
    (Phase.RESUMING, Event.DIED): _GONE,
    (Phase.TERMINATING, Event.TERMINATE_REQUESTED): (Phase.TERMINATING, ()),
    (Phase.TERMINATING, Event.TERMINATED): (Phase.TERMINATED, ()),
    (Phase.TERMINATING, Event.DIED): (Phase.TERMINATED, ()),
    (Phase.TERMINATED, Event.TERMINATE_REQUESTED): (Phase.TERMINATED, ()),
}

REQUESTS = (Event.SUSPEND_REQUESTED, Event.RESUME_REQUESTED, Event.TERMINATE_REQUESTED)


@dataclass(frozen=True, slots=True)
class Told:
    """What comes with an event; ``generation`` with reports only."""

    generation: int | None = None
    reason: str | None = None
    edge_address: str | None = None
    stored_bytes: int | None = None
    snapshot: str = ""
    image_bytes: int = 0


def apply(
    microvm: MicroVm,
    event: Event,
    now: float,
    told: Told = Told(),
) -> tuple[MicroVm, tuple[Effect, ...]]:
    """The MicroVM after ``event``, and what must then be done.

    A report of an older generation, or one that the table does not hold, changes nothing. A call
    that the table does not hold raises the recorded refusal.
    """
    if told.generation is not None and told.generation != microvm.generation:
        return microvm, ()
    step = TRANSITIONS.get((microvm.phase, event))
    if step is None:
        if event in REQUESTS:
            raise _refusal(microvm, event)
        return microvm, ()
    phase, effects = step
    if phase is microvm.phase:
        return _stayed(microvm, event, told), effects
    return _entered(microvm, phase, now, told), effects


def _stayed(microvm: MicroVm, event: Event, told: Told) -> MicroVm:
    if event is Event.UNFIT:
        return replace(microvm, waits=True)
    if event is Event.REBUILT:
        return replace(
            microvm,
            waits=False,
            generation=microvm.generation + 1,
            snapshot=told.snapshot,
            image_bytes=told.image_bytes,
        )
    return microvm


def _entered(microvm: MicroVm, phase: Phase, now: float, told: Told) -> MicroVm:
    if phase is Phase.RUNNING:
        return replace(
            microvm,
            phase=phase,
            suspended_at=None,
            active_at=now,
            run_hook_payload=None,
            edge_address=told.edge_address or microvm.edge_address,
        )
    if phase is Phase.SUSPENDED:
        # A failed resume does not start the suspended time anew.
        return replace(
            microvm,
            phase=phase,
            suspended_at=microvm.suspended_at or now,
            edge_address=None,
            stored_bytes=microvm.stored_bytes if told.stored_bytes is None else told.stored_bytes,
        )
    if phase is Phase.RESUMING:
        return replace(microvm, phase=phase, generation=microvm.generation + 1)
    if phase is Phase.TERMINATING:
        return replace(microvm, phase=phase, state_reason=told.reason or Cause.REQUEST.value)
    if phase is Phase.TERMINATED:
        return replace(
            microvm,
            phase=phase,
            state_reason=microvm.state_reason or told.reason or Cause.REQUEST.value,
            terminated_at=now,
            edge_address=None,
            run_hook_payload=None,
        )
    return replace(microvm, phase=phase)


def ended(microvm: MicroVm) -> ValidationError:
    """The recorded refusal of a change to what has ended."""
    return ValidationError(
        f"The MicroVM {microvm.microvm_id} has been terminated and its state cannot be changed."
    )


def _refusal(microvm: MicroVm, event: Event) -> ValidationError | Conflict:
    if not microvm.phase.live:
        return ended(microvm)
    verb = "suspended" if event is Event.SUSPEND_REQUESTED else "resumed"
    return Conflict(
        f"MicroVM {microvm.microvm_id} is in {microvm.state} state and cannot be {verb}."
    )
