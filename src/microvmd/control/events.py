"""What happened, for who asks and for who follows; and how long it is kept."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from microvmd.control.event_rows import EventQuery
from microvmd.control.retention import in_batches
from microvmd.control.store import Store
from microvmd.model.event import Event

PAGE = 500
BATCH = 1000
SWEEP_INTERVAL_S = 600.0


class Events:
    """Reads the record; events are written by the transactions that change something."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, query: EventQuery, *, after: int = 0, limit: int = PAGE) -> list[Event]:
        """Oldest first, those after a sequence number; fewer than ``limit`` are all there are."""
        return await self._store.run(lambda tx: tx.events.page(query, after=after, limit=limit))

    async def last(self, query: EventQuery, count: int) -> list[Event]:
        """The newest ones, oldest first."""
        return await self._store.run(lambda tx: tx.events.last(query, count))

    async def newest(self) -> int:
        """The number that a follower starts after who wants only what comes."""
        return await self._store.run(lambda tx: tx.events.newest())

    async def read(
        self, query: EventQuery, *, after: int = 0, follow: bool = False
    ) -> AsyncGenerator[Event, None]:
        """All after a sequence number; with ``follow`` for ever, each as it is committed."""
        while True:
            # Taken before the page is read: what is committed meanwhile sets it.
            next_event = self._store.next_event
            found = await self.page(query, after=after)
            for event in found:
                yield event
                after = event.sequence
            if len(found) == PAGE:
                continue
            if not follow:
                return
            await next_event.wait()


async def forget_old_events(store: Store, retention_s: float, clock: Callable[[], float]) -> None:
    """Run for ever: events older than ``retention_s`` seconds are removed."""
    while True:
        await forget_before(store, clock() - retention_s)
        await asyncio.sleep(SWEEP_INTERVAL_S)


async def forget_before(store: Store, moment: float) -> int:
    """Forget all that happened before; how many there were."""
    return await in_batches(store, lambda tx, size: tx.events.forget(moment, size), BATCH)
