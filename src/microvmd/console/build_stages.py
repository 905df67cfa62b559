"""How far a build is, from the lines that it has logged; and what to do when it failed.

Pure. The lines are those of ``build/service.py``, ``builder.py`` and ``capture.py``. An application
can print the same, which then deceives its own builder's eyes only.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

STAGES = (
    ("Fetch the source", ("fetching ",)),
    ("Build the Dockerfile", ("STEP ", "[")),
    ("Start the application", ("starting the application (",)),
    ("Wait until it is ready", ("no ready hook: ", "calling /ready ")),
    ("Take the snapshot", ("taking the snapshot",)),
    ("Restore it once", ("restoring the snapshot once",)),
)
AGAIN = "building the version again "
FROM_FILES = 2
"""So many stages has a build not that begins with the files of an earlier one."""
_STEP = re.compile(r"(?:\[\d+/\d+\] )?STEP (\d+)(?:/(\d+))?: (.{0,200})")
_ADVICE = (
    (
        "S3_ACCESS_DENIED",
        "The build role may not read the archive: give it s3:GetObject, or name another role.",
    ),
    ("S3_NO_SUCH", "Upload the archive again, or correct its s3:// URI."),
    ("S3_CROSS_REGION", "Copy the archive into a bucket of this region."),
    ("S3_INVALID_OBJECT", "Restore the object from its archive class, or upload it again."),
    (
        "ARCHIVE_DOCKERFILE_NOT_FOUND",
        "The Dockerfile must lie at the top of the zip, not in a folder of it.",
    ),
    ("ARCHIVE_INVALID", "Make the zip anew, without links, devices or paths that leave it."),
    (
        "DISK_STORAGE_FULL",
        "Let the Dockerfile leave less behind, or ask the operator for more (build.disk_mib).",
    ),
    (
        "INTERNAL_PLATFORM_ERROR",
        "The platform failed: try again. The log of the service has the cause.",
    ),
    (
        "Ready hook",
        "See below what the application printed. Are the hook's port and time limit right?",
    ),
    (
        "Validate hook",
        "The snapshot was taken, but its clone did not answer /validate.",
    ),
    (
        "ended with",
        "The application ended before its snapshot: its last lines below say why.",
    ),
    ("cannot be started", "Correct ENTRYPOINT or CMD: does the program exist and may it be run?"),
    ("container image build failed", "The last lines below are those of the step that failed."),
)
_OTHERWISE = "The log below says where it ended; mend it and make a new version."


@dataclass(frozen=True, slots=True)
class Stage:
    """``state`` is ``done``, ``now``, ``failed`` or ``later``; ``detail`` is its step, if any."""

    title: str
    state: str
    detail: str = ""
    done: int = 0
    total: int = 0


def stages(lines: Iterable[str], build_state: str) -> list[Stage]:
    """All stages of a build in ``build_state`` (BuildState) that has logged these lines."""
    lines = list(lines)
    skipped = FROM_FILES if any(line.startswith(AGAIN) for line in lines[:1]) else 0
    reached, step = -1, (0, 0, "")
    for line in lines:
        for number, (_, begins) in enumerate(STAGES):
            if number > reached and line.startswith(begins) and (number != 1 or _STEP.match(line)):
                reached = number
        if reached <= 1 and (found := _STEP.match(line)):
            step = (int(found[1]), int(found[2] or 0), found[3])
    shown = range(skipped, len(STAGES))
    return [_stage(number, reached, build_state, step, skipped) for number in shown]


def advice(reason: str) -> str:
    """What its owner can do about a build that failed for this reason."""
    return next((text for words, text in _ADVICE if words in reason), _OTHERWISE)


def _stage(
    number: int, reached: int, build_state: str, step: tuple[int, int, str], first: int
) -> Stage:
    title = STAGES[number][0]
    if build_state == "SUCCESSFUL" or number < reached:
        return Stage(title, "done")
    if number > max(reached, first) or build_state == "PENDING":
        return Stage(title, "later")
    state = "failed" if build_state == "FAILED" else "now"
    done, total, text = step if number == 1 else (0, 0, "")
    return Stage(title, state, text, done, total)
