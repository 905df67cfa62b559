"""Holds a call back until its account may make it: the buckets of ``model.rate`` with a clock.

A call is counted when everything else about it is right, and against its own account only: who is
not authenticated, not authorised or malformed costs nobody a token.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect

from microvmd.model.rate import Bucket, RateLimits

Gone = Callable[[], Coroutine[None, None, None]]

KEPT = 4096
"""Buckets before those that are full, and so say nothing, are dropped."""


@dataclass(frozen=True, slots=True)
class RateUse:
    """Of one operation: calls that could be made at once now, and calls that wait."""

    free: float
    waiting: int


@dataclass(slots=True)
class _Lane:
    """One bucket, and the futures of those who wait for it."""

    bucket: Bucket
    turns: dict[int, "asyncio.Future[None]"] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class Rates:
    """All buckets of one server. ``clock`` gives seconds that never go back."""

    def __init__(self, limits: RateLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._sweep_at = KEPT

    async def admit(self, account: str, operation: str, gone: Gone) -> None:
        """Return when the account may call the operation. Raises Throttled.

        ``gone`` returns when the client has gone away: then the wait ends with ClientDisconnect,
        and the token is another's.
        """
        lane = self._lane(account, operation)
        ticket = None if lane is None else lane.bucket.ask(self._clock())
        if lane is None or ticket is None:
            return
        turn = lane.turns[ticket] = asyncio.get_running_loop().create_future()
        called = False
        try:
            self._release(lane)
            called = await _unless_gone(turn, gone)
        finally:
            del lane.turns[ticket]
            if not called:
                lane.bucket.leave(ticket, self._clock())
                self._release(lane)
        if not called:
            raise ClientDisconnect

    def use(self, account: str) -> Mapping[str, RateUse]:
        """By operation, of those that the account called lately."""
        now = self._clock()
        found = {}
        for (owner, operation), lane in self._lanes.items():
            if owner == account and not lane.bucket.idle(now):
                found[operation] = RateUse(lane.bucket.level, len(lane.bucket.waiting))
        return found

    def _lane(self, account: str, operation: str) -> _Lane | None:
        lane = self._lanes.get((account, operation))
        if lane is None:
            rate = self._limits.of(operation)
            if rate is None:
                return None
            self._sweep()
            lane = self._lanes[account, operation] = _Lane(Bucket(rate, self._clock()))
        return lane

    def _sweep(self) -> None:
        """Who has not called for a second or two needs no bucket."""
        if len(self._lanes) < self._sweep_at:
            return
        now = self._clock()
        self._lanes = {
            key: lane
            for key, lane in self._lanes.items()
            if lane.turns or not lane.bucket.idle(now)
        }
        self._sweep_at = max(KEPT, 2 * len(self._lanes))

    def _release(self, lane: _Lane) -> None:
        """Let those go whose turn it is, and come back for the next."""
        if lane.timer is not None:
            lane.timer.cancel()
        for ticket in lane.bucket.release(self._clock()):
            lane.turns[ticket].set_result(None)
        wait = lane.bucket.next_release(self._clock())
        loop = asyncio.get_running_loop()
        lane.timer = None if wait is None else loop.call_later(wait, self._release, lane)


async def _unless_gone(turn: "asyncio.Future[None]", gone: Gone) -> bool:
    """Whether the turn came before the client went away."""
    async with asyncio.TaskGroup() as tasks:
        left = tasks.create_task(gone())
        await asyncio.wait({turn, left}, return_when=asyncio.FIRST_COMPLETED)
        away = left.done()
        left.cancel()
    return turn.done() and not away
