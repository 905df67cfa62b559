"""Delivers logs to CloudWatch Logs, by following the node's own log store.

The store is the queue: it is bounded, on disk, and says itself where it had to drop old lines. So
an endpoint that is down costs no memory and stops no guest, and a restart goes on where the last
run was. What a MicroVM or a build said last is delivered after its end, in the background.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import structlog

from microvmd.messages.node import LogDelivery, LogTarget
from microvmd.node.aws_access import AwsAccess, Threads
from microvmd.node.cloudwatch import CloudWatchLogs, DeliveryDenied, DeliveryFailed
from microvmd.node.delivery_record import DeliveryRecord, read_all
from microvmd.node.log_events import EVENTS
from microvmd.node.log_files import Entry
from microvmd.node.logs import LogStore
from microvmd.node.roles import RoleCredentials, Roles, RoleSession

log = structlog.get_logger(__name__)

LINGER = 1.0
"""Seconds that lines gather before they are sent."""
READ_BYTES = 512 << 10
"""Of the store at a time: with what CloudWatch Logs adds to each line, one call."""
CONCURRENT = 4
"""Calls at a time, of all logs together."""
ROLE_WAIT = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until the next try after the first failure, and after many."""
GIVE_UP_AFTER = 3600.0
"""Seconds after its end for which delivery of a log is tried."""
LATE_LOGS = 1000
"""Logs of what has ended that may wait for an endpoint; the oldest are given up."""
FLUSH_LIMIT = 3.0
"""Seconds for what is under way when the service ends; the next run does the rest."""


class Sink(Protocol):
    """Where lines go (`cloudwatch.CloudWatchLogs`)."""

    async def send(self, to: LogDelivery, role: RoleCredentials, entries: Sequence[Entry]) -> None:
        """Raise DeliveryDenied or DeliveryFailed."""
        ...


@dataclass(slots=True, eq=False)
class _Item:
    """One log on its way."""

    record: DeliveryRecord
    role: RoleSession | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing will be added to the log."""
    ended_at: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def names(self) -> tuple[str, str]:
        return self.record.log.group, self.record.log.stream

    def end(self, now: float) -> None:
        self.ended_at = now
        self.ended.set()
        self.woken.set()


class Deliveries:
    """All logs that are delivered; its tasks do the work. Use `open_deliveries`."""

    def __init__(
        self,
        directory: Path,
        store: LogStore,
        roles: Roles,
        sink: Sink,
        tasks: asyncio.TaskGroup,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is monotonic."""
        self._directory = directory
        self._store = store
        self._roles = roles
        self._sink = sink
        self._tasks = tasks
        self._clock = clock
        self._turn = asyncio.Semaphore(CONCURRENT)
        self._items: dict[str, _Item] = {}
        self._stopping = asyncio.Event()

    @property
    def pending(self) -> frozenset[str]:
        """Whose logs are followed, or not delivered to their end yet."""
        return frozenset(self._items)

    async def go_on(self) -> None:
        """Deliver what earlier runs left; a MicroVM that is adopted takes its log over."""
        for record in await asyncio.to_thread(lambda: list(read_all(self._directory))):
            item = _Item(record)
            item.end(self._clock())
            self._begin(item)

    @asynccontextmanager
    async def deliver(
        self, key: str, source: LogTarget, to: LogDelivery | None, role: RoleSession | None
    ) -> AsyncIterator[None]:
        """Deliver what is added to a log while the context lasts, and then the rest of it.

        `key` names whose log it is; nothing happens without a place and a role.
        """
        if to is None or role is None:
            yield
            return
        item = self._items.get(key)
        if item is None:
            position = await self._store.end(source.group, source.stream)
            item = self._begin(_Item(DeliveryRecord(key, source, to, position)))
        item.ended.clear()
        item.role = role
        try:
            yield
        finally:
            item.end(self._clock())

    async def stop(self, limit: float) -> None:
        """Deliver what can be in `limit` seconds, and then no more; records say where to go on."""
        self._stopping.set()
        await self.settle(limit)
        for item in self._items.values():
            if item.task is not None:
                item.task.cancel()

    async def settle(self, limit: float) -> None:
        """Until every log that has ended is delivered or given up, for `limit` seconds at most."""
        ended = [item for item in self._items.values() if item.ended.is_set()]
        tasks = [item.task for item in ended if item.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=limit)

    def _begin(self, item: _Item) -> _Item:
        self._items[item.record.key] = item
        name = f"delivery of {item.record.key}"
        item.task = self._tasks.create_task(self._guarded(item), name=name)
        late = [other for other in self._items.values() if other.ended.is_set()]
        for forgotten in late[: max(len(late) - LATE_LOGS, 0)]:
            self._forget(forgotten, "too many wait")
            if forgotten.task is not None:
                forgotten.task.cancel()
        return item

    async def _guarded(self, item: _Item) -> None:
        """A task's border: one log's trouble must not end the task group of all."""
        try:
            with self._store.watch(*item.names, item.woken), ExitStack() as stack:
                await asyncio.to_thread(item.record.write, self._directory)
                await self._follow(item, stack)
        except Exception:
            log.exception("delivery.failed", key=item.record.key)
            self._items.pop(item.record.key, None)

    async def _follow(self, item: _Item, stack: ExitStack) -> None:
        failures = 0
        while True:
            item.woken.clear()
            # Asked before the store is read, or lines written in between would be missed.
            settled = item.ended.is_set() and not self._store.waiting(*item.names)
            try:
                sent = await self._send_some(item, stack)
            except (DeliveryDenied, DeliveryFailed) as error:
                if settled and item.ended.is_set() and self._hopeless(item, error):
                    self._forget(item, str(error))
                    return
                if self._stopping.is_set():
                    return
                if not failures:
                    log.warning("delivery.delayed", key=item.record.key, error=str(error))
                await self._pause(item, min(FIRST_PAUSE * 2**failures, LONGEST_PAUSE))
                failures = min(failures + 1, 16)
                continue
            failures = 0
            if sent:
                continue
            if settled and item.ended.is_set():
                self._forget(item)
                return
            await item.woken.wait()
            if not item.ended.is_set():
                await self._pause(item, LINGER)

    def _hopeless(self, item: _Item, error: Exception) -> bool:
        """Whether a log that has ended is not worth another try."""
        late = self._clock() - item.ended_at > GIVE_UP_AFTER
        return late or isinstance(error, DeliveryDenied)

    async def _pause(self, item: _Item, seconds: float) -> None:
        """Let lines gather, or an endpoint recover; cut short by the end of the log or of all."""
        cut = self._stopping if item.ended.is_set() else item.ended
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await cut.wait()

    async def _send_some(self, item: _Item, stack: ExitStack) -> bool:
        """Send the next lines; whether there were any."""
        record = item.record
        if await self._store.end(*item.names) <= record.position:
            return False
        role = await self._credentials(item, stack)
        async with self._turn:
            page = await self._store.read(*item.names, record.position, EVENTS, READ_BYTES)
            if page.entries:
                await self._sink.send(record.to, role, page.entries)
        if page.next == record.position:
            return False
        item.record = replace(record, position=page.next)
        await asyncio.to_thread(item.record.write, self._directory)
        return True

    async def _credentials(self, item: _Item, stack: ExitStack) -> RoleCredentials:
        """Those of whose log it is; our own where that has ended and its own are no more."""
        if item.role is None or (item.ended.is_set() and item.role.held() is None):
            record = item.record
            item.role = stack.enter_context(self._roles.session(record.to.role_arn, record.key))
        found = await item.role.current(ROLE_WAIT)
        if found is not None:
            return found
        if item.role.refused:
            raise DeliveryDenied(f"{item.record.to.role_arn} cannot be assumed")
        raise DeliveryFailed(f"no credentials of {item.record.to.role_arn}")

    def _forget(self, item: _Item, reason: str | None = None) -> None:
        """Delivered, or given up. Needs no await: a resume may begin anew right after."""
        if reason is not None:
            log.warning("delivery.given_up", key=item.record.key, reason=reason)
        self._items.pop(item.record.key, None)
        item.record.remove(self._directory)


@asynccontextmanager
async def open_deliveries(
    directory: Path, store: LogStore, roles: Roles, access: AwsAccess
) -> AsyncIterator[Deliveries]:
    """Deliveries to the CloudWatch Logs of the settings; goes on with what an earlier run left."""
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(Threads("logs", CONCURRENT))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        sink = CloudWatchLogs(access, threads)
        clock = asyncio.get_running_loop().time
        made = Deliveries(directory, store, roles, sink, tasks, clock)
        await made.go_on()
        try:
            yield made
        finally:
            await made.stop(FLUSH_LIMIT)
