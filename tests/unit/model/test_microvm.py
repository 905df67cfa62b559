"""The state table of a MicroVM: scripts, the full product of phases and events, and invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.errors import ApiError, Conflict, ValidationError
from microvmd.model.microvm import (
    REQUESTS,
    TRANSITIONS,
    Cause,
    Effect,
    Event,
    MicroVm,
    Phase,
    State,
    Told,
    apply,
)


def a_microvm(phase: Phase = Phase.PENDING, generation: int = 1) -> MicroVm:
    return MicroVm(
        microvm_id="microvm-1",
        account="000000000000",
        endpoint_id="e-1",
        image_arn="arn:aws:lambda:us-east-1:000000000000:microvm-image:app",
        image_version="1.0",
        phase=phase,
        generation=generation,
        started_at=100.0,
        run_hook_payload="secret",
    )


def test_whole_life_as_a_script() -> None:
    vm = a_microvm()
    vm, effects = apply(vm, Event.STARTED, 101.0, Told(generation=1, edge_address="10.200.0.2"))
    assert (vm.state, effects) == (State.RUNNING, (Effect.ROUTE,))
    assert (vm.edge_address, vm.active_at) == ("10.200.0.2", 101.0)
    assert vm.run_hook_payload is None, "the payload is a secret: kept no longer than needed"

    vm, effects = apply(vm, Event.SUSPEND_REQUESTED, 102.0)
    assert (vm.state, effects) == (State.SUSPENDING, (Effect.UNROUTE, Effect.SUSPEND))

    vm, effects = apply(vm, Event.SUSPENDED, 103.0, Told(generation=1))
    assert (vm.state, vm.suspended_at, vm.edge_address, effects) == (
        State.SUSPENDED,
        103.0,
        None,
        (),
    )

    vm, effects = apply(vm, Event.RESUME_REQUESTED, 104.0)
    assert (vm.phase, vm.state, vm.generation) == (Phase.RESUMING, State.SUSPENDED, 2)
    assert effects == (Effect.RESUME,)

    vm, effects = apply(vm, Event.STARTED, 105.0, Told(generation=2, edge_address="10.200.0.6"))
    assert (vm.state, vm.edge_address, vm.suspended_at) == (State.RUNNING, "10.200.0.6", None)

    vm, effects = apply(vm, Event.TERMINATE_REQUESTED, 106.0)
    assert (vm.state, effects) == (State.TERMINATING, (Effect.UNROUTE, Effect.TERMINATE))

    vm, effects = apply(vm, Event.TERMINATED, 107.0, Told(generation=2))
    assert (vm.state, vm.state_reason, vm.terminated_at) == (State.TERMINATED, "Success.", 107.0)


def test_failed_run_hook_terminates_with_its_reason() -> None:
    told = Told(generation=1, reason="Run hook said 500")
    vm, effects = apply(a_microvm(), Event.DIED, 101.0, told)
    assert (vm.state, vm.state_reason) == (State.TERMINATED, "Run hook said 500")
    assert effects == (Effect.UNROUTE,)


def test_failed_resume_keeps_the_suspended_time() -> None:
    vm = a_microvm(Phase.RUNNING)
    vm, _ = apply(vm, Event.SUSPEND_REQUESTED, 10.0)
    vm, _ = apply(vm, Event.SUSPENDED, 11.0, Told(generation=1))
    vm, _ = apply(vm, Event.RESUME_REQUESTED, 20.0)
    vm, _ = apply(vm, Event.RESUME_FAILED, 21.0, Told(generation=2))
    assert (vm.phase, vm.suspended_at) == (Phase.SUSPENDED, 11.0)


def test_end_reason_of_the_first_cause_wins() -> None:
    vm = a_microvm(Phase.RUNNING)
    vm, _ = apply(vm, Event.TERMINATE_REQUESTED, 1.0, Told(reason=Cause.MAXIMUM_DURATION.value))
    vm, _ = apply(vm, Event.DIED, 2.0, Told(generation=1, reason="VMM ended"))
    assert vm.state_reason == "Maximum duration exceeded."


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(Event))
def test_every_phase_and_event(phase: Phase, event: Event) -> None:
    vm = a_microvm(phase)
    known = (phase, event) in TRANSITIONS
    if not known and event in REQUESTS:
        expected = Conflict if phase.live else ValidationError
        with pytest.raises(expected) as refusal:
            apply(vm, event, 1.0)
        assert vm.microvm_id in refusal.value.message
        return
    after, effects = apply(vm, event, 1.0, Told(generation=vm.generation))
    if known:
        assert after.phase is TRANSITIONS[phase, event][0]
        assert effects == TRANSITIONS[phase, event][1]
    else:
        assert (after, effects) == (vm, ())


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", [event for event in Event if event not in REQUESTS])
def test_reports_of_an_older_generation_change_nothing(phase: Phase, event: Event) -> None:
    vm = a_microvm(phase, generation=3)
    assert apply(vm, event, 1.0, Told(generation=2, reason="late")) == (vm, ())


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event.SUSPEND_REQUESTED, "has been terminated and its state cannot be changed."),
        (Event.RESUME_REQUESTED, "has been terminated and its state cannot be changed."),
    ],
)
def test_recorded_refusal_of_a_terminated_microvm(event: Event, text: str) -> None:
    with pytest.raises(ValidationError, match=f"The MicroVM microvm-1 {text}"):
        apply(a_microvm(Phase.TERMINATED), event, 1.0)


@given(st.lists(st.tuples(st.sampled_from(list(Event)), st.integers(0, 2)), max_size=40))
def test_any_sequence_keeps_the_invariants(steps: list[tuple[Event, int]]) -> None:
    vm, now = a_microvm(), 100.0
    for event, age in steps:
        now += 1.0
        before = vm
        report = event not in REQUESTS
        try:
            told = Told(generation=vm.generation - age if report else None)
            vm, effects = apply(vm, event, now, told)
        except ApiError:
            continue
        assert vm.generation >= before.generation
        if before.phase is Phase.TERMINATED:
            assert (vm, effects) == (before, ())
        if vm.phase is Phase.TERMINATED:
            assert vm.terminated_at is not None
            assert vm.state_reason
        if vm.phase is Phase.SUSPENDED:
            assert vm.suspended_at is not None
            assert vm.edge_address is None
        # At most one order goes to the node for each decision: never two owners.
        assert len({Effect.SUSPEND, Effect.RESUME, Effect.TERMINATE} & set(effects)) <= 1
        if Effect.RESUME in effects:
            assert vm.generation == before.generation + 1
