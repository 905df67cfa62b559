"""Where the time of one step of a MicroVM's life goes, in ms by name.

Names with ``guest.`` are time that passes in the guest, all others are ours and the VMM's.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

CLAIM = "claim"
"""First step of a run in a VMM that waited."""
DISK = "disk"
"""Of a run that found none."""


class Timings:
    """A stopwatch; concurrent steps may overlap."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._steps: dict[str, float] = {}
        self.begun = time.time()
        """Seconds since the epoch."""
        self.offsets: dict[str, float] = {}
        """When each step began, in ms after that."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        self.offsets[name] = round((begin - self._begin) * 1000, 2)
        try:
            yield
        finally:
            self._steps[name] = round((time.monotonic() - begin) * 1000, 2)

    def ended(self) -> Mapping[str, float]:
        """All steps and their ``total``."""
        return {**self._steps, "total": round((time.monotonic() - self._begin) * 1000, 2)}
