"""Rows of events; a part of the store's transaction, so that no change goes unrecorded."""

import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Select, delete, insert, select, update

from microvmd.control.acting import current_actor
from microvmd.control.schema import event_places, events
from microvmd.model.event import Actor, Event, Kind, StateChange

_CHANGE = TypeAdapter(StateChange)
_ACTOR = TypeAdapter(Actor)


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events: None is any. ``since`` is in wall-clock seconds."""

    account: str | None = None
    kind: Kind | None = None
    resource: str | None = None
    since: float | None = None


class EventRows:
    """Reads and writes of one decision. ``now`` is its time."""

    def __init__(self, connection: Connection, now: float) -> None:
        self._connection = connection
        self._now = now
        self.added = False

    def add(self, change: StateChange) -> None:
        self._connection.execute(
            insert(events).values(
                event_id=str(uuid.uuid4()),
                account=change.account,
                kind=change.kind.value,
                resource=change.resource,
                time=self._now,
                document=json.dumps({"change": asdict(change), "actor": asdict(current_actor())}),
            )
        )
        self.added = True

    def page(self, query: EventQuery, *, after: int = 0, limit: int) -> list[Event]:
        """Oldest first, those of a higher sequence number than ``after``."""
        wanted = _wanted(query).where(events.c.sequence > after)
        rows = self._connection.execute(wanted.order_by(events.c.sequence).limit(limit)).all()
        return [_event(row.sequence, row.event_id, row.time, row.document) for row in rows]

    def last(self, query: EventQuery, count: int) -> list[Event]:
        """The newest ones, oldest first."""
        wanted = _wanted(query).order_by(events.c.sequence.desc()).limit(count)
        rows = self._connection.execute(wanted).all()
        return [_event(row.sequence, row.event_id, row.time, row.document) for row in rows[::-1]]

    def place_of(self, receiver: str) -> int:
        """The last event that was delivered to it; a new one begins with what comes."""
        query = select(event_places.c.sequence).where(event_places.c.receiver == receiver)
        found = self._connection.execute(query).scalar_one_or_none()
        if found is None:
            found = self.newest()
            self._connection.execute(insert(event_places).values(receiver=receiver, sequence=found))
        return found

    def move(self, receiver: str, sequence: int) -> None:
        """It has taken all up to this one."""
        self._connection.execute(
            update(event_places)
            .where(event_places.c.receiver == receiver)
            .values(sequence=sequence)
        )

    def newest(self) -> int:
        """The sequence number of the last one; 0 when there is none."""
        query = select(events.c.sequence).order_by(events.c.sequence.desc()).limit(1)
        return self._connection.execute(query).scalar_one_or_none() or 0

    def forget(self, before: float, limit: int) -> int:
        """Remove the oldest ones; how many there were."""
        old = select(events.c.sequence).where(events.c.time < before)
        chosen = old.order_by(events.c.sequence).limit(limit).scalar_subquery()
        done = self._connection.execute(delete(events).where(events.c.sequence.in_(chosen)))
        return done.rowcount


def _wanted(query: EventQuery) -> "Select[Any]":
    wanted = select(events)
    if query.account is not None:
        wanted = wanted.where(events.c.account == query.account)
    if query.kind is not None:
        wanted = wanted.where(events.c.kind == query.kind.value)
    if query.resource is not None:
        wanted = wanted.where(events.c.resource == query.resource)
    if query.since is not None:
        wanted = wanted.where(events.c.time >= query.since)
    return wanted


def _event(sequence: int, event_id: str, time: float, document: str) -> Event:
    read = json.loads(document)
    change = _CHANGE.validate_python(read["change"])
    return Event(sequence, event_id, time, change, _ACTOR.validate_python(read["actor"]))
