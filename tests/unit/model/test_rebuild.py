"""What becomes of runs whose snapshot does not fit, and how often a version is built again."""

from dataclasses import replace

import pytest

from microvmd.model.image import Build, BuildEvent, BuildState, SnapshotSizes, Version, VersionState
from microvmd.model.microvm import MicroVm
from microvmd.model.rebuild import (
    INTERRUPTIONS,
    LONGEST_PAUSE_S,
    MOST_REBUILDS,
    STARTS,
    STEPS,
    Answer,
    Step,
    answer,
    apply_rebuild,
    begun,
    fitted,
    freed,
    given_up,
    pause,
)
from tests.unit.model.test_image import a_version
from tests.unit.model.test_microvm import a_microvm

BUILT = replace(a_version(state=BuildState.SUCCESSFUL), state=VersionState.SUCCESSFUL)
SIZES = SnapshotSizes(1, 2, 3)


def a_rebuild(number: int = 1) -> Build:
    return Build(f"r-{number}", "X86_64", "INTEL", "x86_64", 10.0 * number)


def after(version: Version, *events: BuildEvent, now: float = 100.0) -> Version:
    """The newest rebuild has gone through these."""
    for event in events:
        moved = apply_rebuild(version, version.rebuilds[-1].build_id, event, now, reason="why")
        assert moved is not None
        version = moved
    return version


def failing(times: int, now: float = 100.0) -> Version:
    """Each time at once after the last one."""
    version = BUILT
    for number in range(times):
        version = begun(version, a_rebuild(number))
        version = after(version, BuildEvent.STARTED, BuildEvent.FAILED, now=now)
    return version


def told(version: Version, now: float = 100.0, microvm: MicroVm | None = None) -> Answer:
    return answer(version, microvm or a_microvm(), now)


def test_the_first_run_builds_and_all_others_wait() -> None:
    assert told(BUILT) == Answer(Step.BUILD)
    version = begun(BUILT, a_rebuild())
    assert told(version) == Answer(Step.WAIT)
    assert told(after(version, BuildEvent.STARTED)) == Answer(Step.WAIT)
    assert version.rebuilding
    assert (version.state, version.snapshot) == (VersionState.SUCCESSFUL, ""), "as it was"


def test_a_success_is_what_is_started_from_then_on() -> None:
    version = begun(BUILT, a_rebuild())
    version = after(version, BuildEvent.STARTED, BuildEvent.SUCCEEDED)
    assert (version.snapshot, version.current, version.rebuilding) == (
        "r-1",
        version.rebuilds[0],
        False,
    )
    assert told(version) == Answer(Step.START_AGAIN), "it was tried with the one before"
    moved_on = replace(a_microvm(), snapshot="r-1")
    assert told(version, microvm=moved_on) == Answer(Step.BUILD), "the node has changed again"
    restless = replace(moved_on, generation=STARTS + 1)
    assert told(version, microvm=restless).step is Step.END


def test_every_state_of_the_newest_rebuild_has_a_step() -> None:
    assert set(STEPS) == {None, *BuildState}


def test_a_failure_is_remembered_for_a_while_that_grows() -> None:
    version = failing(1)
    found = told(version, now=130.0)
    assert found.step is Step.END
    assert found.reason is not None
    assert "building it again failed: why It is not tried again for 30 s" in found.reason
    assert told(version, now=160.0) == Answer(Step.BUILD)
    assert [pause(failing(times), 100.0) for times in (1, 2, 3)] == [60.0, 120.0, 240.0]
    assert pause(failing(12), 100.0) == LONGEST_PAUSE_S
    assert version.snapshot == "", "what was there stays in use"


def test_who_asks_again_need_not_wait() -> None:
    asked = replace(failing(3), asked_at=101.0)
    assert told(asked, now=102.0) == Answer(Step.BUILD)
    again = after(begun(asked, a_rebuild(9)), BuildEvent.STARTED, BuildEvent.FAILED, now=110.0)
    assert pause(again, 110.0) == 60.0, "what failed before the call is forgiven"


def test_a_success_forgives() -> None:
    version = begun(failing(3), a_rebuild(9))
    version = after(version, BuildEvent.STARTED, BuildEvent.SUCCEEDED)
    assert pause(version, 100.0) == 0.0


def test_interruptions_are_no_failures_until_they_are_many() -> None:
    version = BUILT
    for number in range(1, INTERRUPTIONS + 1):
        version = given_up(begun(version, a_rebuild(number)), 100.0, "restart", interrupted=True)
        assert version.rebuilds[-1].state is BuildState.FAILED
        assert (pause(version, 100.0) > 0) is (number == INTERRUPTIONS)


def test_a_version_that_is_deleted_is_not_built() -> None:
    version = begun(BUILT, a_rebuild())
    ended = given_up(version, 5.0)
    assert (ended.rebuilds[0].state, ended.rebuilds[0].ended_at) == (BuildState.FAILED, 5.0)
    assert ended.rebuilds[0].reason == "The image version was deleted."
    doomed = replace(version, state=VersionState.DELETING)
    assert told(doomed) == Answer(Step.END, "The image version is DELETING.")
    assert apply_rebuild(doomed, "r-1", BuildEvent.STARTED, 1.0) is None


@pytest.mark.parametrize("event", list(BuildEvent))
def test_late_and_unknown_reports_change_nothing(event: BuildEvent) -> None:
    version = after(begun(BUILT, a_rebuild()), BuildEvent.STARTED, BuildEvent.SUCCEEDED)
    assert apply_rebuild(version, "r-1", event, 1.0, sizes=SIZES) is None
    assert apply_rebuild(version, "unknown", event, 1.0) is None


def test_the_record_does_not_grow_without_end() -> None:
    version = after(begun(BUILT, a_rebuild(0)), BuildEvent.STARTED, BuildEvent.SUCCEEDED)
    for number in range(1, 2 * MOST_REBUILDS):
        version = begun(version, a_rebuild(number))
        version = after(version, BuildEvent.STARTED, BuildEvent.FAILED)
    assert len(version.rebuilds) == MOST_REBUILDS
    assert version.snapshot == "r-0", "the one in use is not forgotten"


def test_an_older_snapshot_that_fits_is_used_again() -> None:
    version = after(begun(BUILT, a_rebuild()), BuildEvent.STARTED, BuildEvent.SUCCEEDED)
    tried = replace(a_microvm(), snapshot="r-1")
    back = fitted(version, tried, "")
    assert (back.snapshot, back.current) == ("", version.build)
    assert told(back, microvm=tried) == Answer(Step.START_AGAIN)
    assert fitted(version, tried, None) == version
    assert fitted(version, tried, "unknown") == version
    assert fitted(version, a_microvm(), "") == version, "it has tried that one itself"
    newer = after(begun(back, a_rebuild(2)), BuildEvent.STARTED, BuildEvent.SUCCEEDED)
    assert newer.snapshot == "r-2", "what is made is for the node of now"


def test_what_nobody_needs_is_freed_once_and_used_no_more() -> None:
    version = after(begun(BUILT, a_rebuild()), BuildEvent.STARTED, BuildEvent.SUCCEEDED)
    assert freed(version, {"", "r-1"}) == (version, [])
    less, names = freed(version, {"r-1"})
    assert names == [""]
    assert less.kept == (version.rebuilds[0],)
    assert less.snapshot == "r-1"
    assert freed(less, set()) == (less, [])
    assert fitted(less, replace(a_microvm(), snapshot="r-1"), "") == less
