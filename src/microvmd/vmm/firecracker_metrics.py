"""What Firecracker counts, kept beside its log; what failed in it is told in the node's log.

It writes a line of JSON each minute, and one when it ends in order: groups of counters, each by how
much it grew since the line before (its documentation, "Metrics"). A hostile guest may have taken
the VMM over, so a line is what a stranger sends: bounded, and ignored where it makes no sense.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

LINE_LIMIT = 64 << 10
"""Bytes of a line: 1.12 writes 6 KiB with two drives and a network card."""
TOLD_EVERY = 60.0
MOST = 20
FAILURES = ("_fails", "failures", "num_faults", "panic_count")
"""Ends of the names of what should stay 0."""
ANSWERED = ("get_api_requests", "patch_api_requests", "put_api_requests")
"""What fails in these was answered with an error, which says more."""


def failures(line: bytes) -> Mapping[str, int]:
    """What failed by ``group.counter``, at most so many; nothing of what is no such line."""
    groups: object = None
    with contextlib.suppress(ValueError, RecursionError):
        groups = json.loads(line)
    if not isinstance(groups, dict):
        return {}
    found = {
        f"{group}.{name}"[:100]: value
        for group, counters in groups.items()
        if isinstance(counters, dict) and group not in ANSWERED
        for name, value in counters.items()
        if name.endswith(FAILURES) and isinstance(value, int) and value > 0
    }
    return dict(sorted(found.items())[:MOST])


class FailureWatch:
    """Takes what a VMM writes, piece by piece, with the log that lies in its directory: one that
    waited bears the name of its MicroVM as soon as that has claimed it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rest = b""
        self._told = -TOLD_EVERY

    def __call__(self, counts: Path, piece: bytes) -> None:
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = rest[-LINE_LIMIT:]
        for line in lines:
            if len(line) <= LINE_LIMIT and (found := failures(line)):
                self._tell(counts.parent.name, found)

    def _tell(self, name: str, found: Mapping[str, int]) -> None:
        # One that was taken over could write lines without end.
        if (now := self._clock()) - self._told >= TOLD_EVERY:
            log.warning("machine.vmm_counts_failures", name=name, failures=dict(found))
            self._told = now
