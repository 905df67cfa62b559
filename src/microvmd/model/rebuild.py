"""Building a version again for a node that cannot restore its snapshot any more.

A snapshot is restored by what made it alone: VMM, its version, accelerator, CPU model, devices. The
node tells of a start that has none that fits (``messages.node.Unfit``); what follows is decided
here. MicroVMs wait in PENDING for the one build that is made, whose states are those of any build.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile

from microvmd.model.image import (
    BUILD_TRANSITIONS,
    Build,
    BuildEvent,
    BuildState,
    SnapshotSizes,
    Version,
    VersionState,
    moved,
)
from microvmd.model.microvm import MicroVm

FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 3600.0
INTERRUPTIONS = 3
"""So many in a row are nobody's failure; what ends the node each time must come to an end too."""
MOST_REBUILDS = 16
"""Builds beside the first that a version is remembered with."""
STARTS = 3
"""A MicroVM that snapshots were made for, and that fits none of them, is started no more often."""
UNSETTLED = (
    "The image version was built again for this node, and its snapshot does not fit all the same: "
    "look whether the node is started with other settings each time."
)
INTERRUPTED = (
    "INTERNAL_PLATFORM_ERROR: The build was interrupted by a restart. The next run begins another."
)
DELETED = "The image version was deleted."
AT_ONCE = ", unless UpdateMicrovmImageVersion makes the version ACTIVE again."


class Step(StrEnum):
    """What becomes of a MicroVM whose snapshot does not fit."""

    START_AGAIN = "start again"
    """There is a newer snapshot than the one it was started from."""
    WAIT = "wait"
    BUILD = "build"
    """It waits too, for a build that begins now."""
    END = "end"


@dataclass(frozen=True, slots=True)
class Answer:
    """``reason`` is the MicroVM's ``stateReason`` where it ends."""

    step: Step
    reason: str | None = None


STEPS = {
    None: Step.BUILD,
    BuildState.PENDING: Step.WAIT,
    BuildState.IN_PROGRESS: Step.WAIT,
    BuildState.SUCCESSFUL: Step.BUILD,
    BuildState.FAILED: Step.BUILD,
}
"""By the state of the newest rebuild, where no pause is to be kept."""


def answer(version: Version, microvm: MicroVm, now: float) -> Answer:
    """For a MicroVM of this version that was not started, since its snapshot does not fit."""
    if version.state is not VersionState.SUCCESSFUL:
        return Answer(Step.END, f"The image version is {version.state}.")
    if microvm.snapshot != version.snapshot:
        return Answer(Step.START_AGAIN)
    newest = version.rebuilds[-1] if version.rebuilds else None
    if microvm.generation > STARTS:
        return Answer(Step.END, UNSETTLED)
    left = pause(version, now)
    if newest is not None and left > 0:
        return Answer(
            Step.END, f"{failure(newest)} It is not tried again for {left:.0f} s{AT_ONCE}"
        )
    return Answer(STEPS[None if newest is None else newest.state])


def failure(build: Build) -> str:
    """What who runs a MicroVM reads when its version could not be built again."""
    return (
        "The snapshot of the image version does not fit this node any more, and building it again "
        f"failed: {build.reason}"
    )


def pause(version: Version, now: float) -> float:
    """Seconds for which no further build is begun; 0 or less is none.

    A minute after the first failure, twice as long after each further one. Without a pause a
    version that cannot be built would be built for each run.
    """
    failed = list(takewhile(lambda one: one.state is BuildState.FAILED, reversed(version.rebuilds)))
    counted = [one for one in failed if (one.ended_at or 0.0) > version.asked_at]
    if not counted or _only_interrupted(counted):
        return 0.0
    length = min(FIRST_PAUSE_S * 2.0 ** (len(counted) - 1), LONGEST_PAUSE_S)
    return (counted[0].ended_at or 0.0) + length - now


def _only_interrupted(newest_first: Sequence[Build]) -> bool:
    interrupted = list(takewhile(lambda one: one.interrupted, newest_first))
    return 0 < len(interrupted) < INTERRUPTIONS


def begun(version: Version, build: Build) -> Version:
    """The version with one more build. MicroVMs go on being started from the one it has."""
    builds = version.rebuilds
    if len(builds) >= MOST_REBUILDS:
        forgotten = next((one for one in builds if one not in version.kept), None)
        builds = tuple(one for one in builds if one is not forgotten)
    return replace(version, rebuilds=(*builds, build))


def apply_rebuild(
    version: Version,
    build_id: str,
    event: BuildEvent,
    now: float,
    *,
    reason: str | None = None,
    sizes: SnapshotSizes | None = None,
    interrupted: bool = False,
) -> Version | None:
    """The version after a report of one of its rebuilds; None for one that no longer matters.

    The version stays as it is: what it was built from has not changed.
    """
    found = next((one for one in version.rebuilds if one.build_id == build_id), None)
    target = None if found is None else BUILD_TRANSITIONS.get((found.state, event))
    if found is None or target is None or version.state is not VersionState.SUCCESSFUL:
        return None
    after = replace(moved(found, target, now, reason, sizes), interrupted=interrupted)
    builds = tuple(after if one is found else one for one in version.rebuilds)
    chosen = None if target is BuildState.SUCCESSFUL else version.chosen
    return replace(version, rebuilds=builds, chosen=chosen, updated_at=now)


def fitted(version: Version, microvm: MicroVm, fits: str | None) -> Version:
    """The version with the snapshot that fits its node, where that is an older one that is kept:
    a node that was changed there and back builds nothing."""
    found = [one for one in version.kept if version.snapshot_of(one) == fits]
    if not found or microvm.snapshot != version.snapshot:
        return version
    return replace(version, chosen=found[0].build_id)


def freed(version: Version, used: Collection[str]) -> tuple[Version, list[str]]:
    """The version without the snapshots that no MicroVM was, or will be, started from; and which
    these are. ``used`` are those of its MicroVMs."""
    needed = {version.snapshot, *used}
    idle = [one for one in version.kept if version.snapshot_of(one) not in needed]
    if not idle:
        return version, []
    first, *others = (replace(one, freed=one in idle or one.freed) for one in version.builds)
    names = [version.snapshot_of(one) for one in idle]
    return replace(version, build=first, rebuilds=tuple(others)), names


def given_up(
    version: Version, now: float, reason: str = DELETED, *, interrupted: bool = False
) -> Version:
    """The version with no rebuild in flight."""
    for build in version.rebuilds:
        if build.in_flight:
            after = apply_rebuild(
                version,
                build.build_id,
                BuildEvent.FAILED,
                now,
                reason=reason,
                interrupted=interrupted,
            )
            version = after or version
    return version
