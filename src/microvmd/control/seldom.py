"""Says a trouble once in a while, however often it comes: it is told on the disk that is full."""

import time
from collections.abc import Callable

AGAIN_S = 60.0


class Seldom:
    """``if seldom.due(): log...``. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at = float("-inf")

    def due(self) -> bool:
        """Whether it is time to say it, which is then taken for said."""
        now = self._clock()
        if now - self._said_at < AGAIN_S:
            return False
        self._said_at = now
        return True
