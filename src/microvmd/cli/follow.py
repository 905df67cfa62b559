"""Follows one build: its log as it is written, its step as a progress display, its outcome.

The log comes from a thread of its own, because reading it blocks; the state is asked for through
the AWS API between the lines.
"""

import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from microvmd.cli.client import Service
from microvmd.cli.output import console, without_metadata
from microvmd.messages.node_requests import LogLine
from microvmd.node.log_lines import printable
from microvmd.service.failure import Failure

ASK_SECONDS = 0.5
BUILD_SECONDS = 3600.0
FINISHED = {"CREATED", "UPDATED", "CREATE_FAILED", "UPDATE_FAILED"}
_STEP = re.compile(r"^(?:\[\d+/\d+\] )?STEP (?P<done>\d+)(?:/(?P<total>\d+))?: (?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Step:
    """``STEP 3/7: RUN pip install flask`` of the builder."""

    done: int
    total: int | None
    text: str

    @classmethod
    def parse(cls, line: str) -> "Step | None":
        found = _STEP.match(line)
        if found is None:
            return None
        total = found["total"]
        return cls(int(found["done"]), int(total) if total else None, found["text"])


def follow_build(service: Service, started: dict[str, Any], *, show_log: bool) -> dict[str, Any]:
    """Wait for the version that ``started`` (Create/Update's answer) began; give that version.

    Raises Failure with the build's own reason.
    """
    arn, version = started["imageArn"], started["imageVersion"]
    group = f"/aws/lambda-microvms/{arn.rpartition(':')[2]}"
    builds = service.microvms.list_microvm_image_builds(imageIdentifier=arn, imageVersion=version)
    stream = f"build/{version}/{builds['items'][0]['buildId']}"
    end = time.monotonic() + BUILD_SECONDS
    with _display(show_log) as progress:
        task = progress.add_task(f"building {version}", total=None)
        finished = False
        for line in _lines_between(service, group, stream, show_log):
            if line is not None:
                _show(progress, task, line)
            elif finished:
                break
            elif time.monotonic() > end:
                raise Failure(f"the build is not done after {BUILD_SECONDS:.0f} s")
            else:
                # Lines may be under way when the state is known: one more round for them.
                finished = _finished(service, arn)
    return outcome(service, arn, version)


def _finished(service: Service, arn: str) -> bool:
    return service.microvms.get_microvm_image(imageIdentifier=arn)["state"] in FINISHED


def outcome(service: Service, arn: str, version: str) -> dict[str, Any]:
    """The finished version. Raises Failure with the reason of the build that failed."""
    found = without_metadata(
        service.microvms.get_microvm_image_version(imageIdentifier=arn, imageVersion=version)
    )
    if found["state"] == "SUCCESSFUL":
        return {"name": arn.rpartition(":")[2], **found}
    builds = service.microvms.list_microvm_image_builds(imageIdentifier=arn, imageVersion=version)
    reasons = {str(item["stateReason"]) for item in builds["items"] if item.get("stateReason")}
    why = "; ".join(sorted(reasons)) or found.get("stateReason") or "no reason given"
    raise Failure(
        f"build of {arn.rpartition(':')[2]} {version} failed: {why}",
        "the end of the build log above says where; mend the Dockerfile and build again",
    )


def _display(show_log: bool) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not show_log,
    )


def _show(progress: Progress, task: Any, line: LogLine) -> None:  # noqa: ANN401 - rich's TaskID
    text = printable(line.message)
    progress.console.print(text, markup=False, highlight=False, soft_wrap=True, style="dim")
    step = Step.parse(text)
    if step is not None:
        shown = step.text if len(step.text) <= 60 else f"{step.text[:57]}..."
        progress.update(task, description=shown, completed=step.done, total=step.total)


def _lines_between(
    service: Service, group: str, stream: str, show_log: bool
) -> Iterator[LogLine | None]:
    """Log lines as they come, and None whenever it is time to ask for the state.

    After the consumer leaves the loop at a None, nothing more is read.
    """
    lines: queue.Queue[LogLine] = queue.Queue()
    if show_log:
        reader = threading.Thread(
            target=_read, args=(service, group, stream, lines), name="build-log", daemon=True
        )
        reader.start()
    next_question = time.monotonic() + ASK_SECONDS
    while True:
        try:
            yield lines.get(timeout=max(0.01, next_question - time.monotonic()))
        except queue.Empty:
            yield None
            next_question = time.monotonic() + ASK_SECONDS


def _read(service: Service, group: str, stream: str, lines: "queue.Queue[LogLine]") -> None:
    try:
        for line in service.logs(group, stream, follow=True):
            lines.put(line)
    except (httpx.HTTPError, Failure) as error:
        lines.put(LogLine(time.time(), "", f"(the build log ended: {error})"))
