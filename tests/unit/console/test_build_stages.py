"""How far a build is by its log, and what to do when it failed."""

from typing import get_args

import pytest

from microvmd.build.failure import CONTAINER_BUILD_FAILED, FailureCode
from microvmd.console.build_stages import STAGES, advice, stages

LOG = [
    "fetching s3://bucket/app.zip",
    "STEP 1/3: FROM al2023",
    "STEP 2/3: RUN make",
    "taking a walk",
    "STEP 3/3: CMD x",
    "starting the application (2048 MiB, 1 vCPU)",
    "starting /app",
    "calling /ready on port 9000 for up to 30 s",
    "taking the snapshot",
    "restoring the snapshot once",
    "done",
]


def _states(lines: list[str], state: str = "IN_PROGRESS") -> list[str]:
    return [stage.state for stage in stages(lines, state)]


@pytest.mark.parametrize(
    ("count", "now"), [(0, 0), (1, 0), (2, 1), (5, 1), (6, 2), (7, 2), (8, 3), (9, 4), (10, 5)]
)
def test_each_line_leads_to_its_stage(count: int, now: int) -> None:
    expected = ["done"] * now + ["now"] + ["later"] * (len(STAGES) - now - 1)
    assert _states(LOG[:count]) == expected
    assert _states(LOG[:count], "FAILED")[now] == "failed"


def test_before_and_after() -> None:
    assert set(_states([], "PENDING")) == {"later"}
    assert set(_states(LOG, "SUCCESSFUL")) == {"done"}
    assert set(_states([], "SUCCESSFUL")) == {"done"}, "its log is no longer kept"


def test_a_build_from_earlier_files_has_no_dockerfile() -> None:
    log = ["building the version again for this node: another QEMU", *LOG[5:]]
    assert _states(log[:1]) == ["now", "later", "later", "later"]
    assert [stage.title for stage in stages(log, "SUCCESSFUL")] == [
        title for title, _ in STAGES[2:]
    ]
    assert len(_states([*LOG, log[0]])) == len(STAGES), "an application that prints it is not one"


def test_steps_of_the_dockerfile() -> None:
    stage = stages(LOG[:3], "IN_PROGRESS")[1]
    assert (stage.done, stage.total, stage.detail) == (2, 3, "RUN make")
    several = stages(["fetching x", "[1/2] STEP 4/5: COPY a b"], "IN_PROGRESS")[1]
    assert (several.done, several.total) == (4, 5)
    assert stages([LOG[0], "[a line of its own"], "IN_PROGRESS")[1].state == "later"


def test_every_reason_has_advice() -> None:
    texts = {advice(f"{code}: something") for code in get_args(FailureCode)}
    texts.add(advice(CONTAINER_BUILD_FAILED))
    assert len(texts) >= 8
    assert all(text.endswith((".", "?")) or ":" in text for text in texts)
    assert "hook's port" in advice("Ready hook invocation timed out after PT30S")
