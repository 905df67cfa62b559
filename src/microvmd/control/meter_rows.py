"""Usage by MicroVM and hour, and the meters of those that have not ended; a part of the store's
transaction: a change of state and what was used up to it are one commit."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from microvmd.control.schema import meters, usage
from microvmd.model.metering import HOUR_S, Meter, Usage
from microvmd.model.microvm import MicroVm, Phase

_MEMBERS = tuple(member.name for member in fields(Usage))


@dataclass(frozen=True, slots=True)
class Used:
    """What one MicroVM used in a span of time."""

    microvm_id: str
    image_arn: str
    usage: Usage


class MeterRows:
    """Reads and writes of one decision. ``now`` is its time."""

    def __init__(self, connection: Connection, now: float) -> None:
        self._connection = connection
        self._now = now

    def begin(self, microvm: MicroVm) -> None:
        """The meter of a new one."""
        self._connection.execute(
            insert(meters).values(
                microvm_id=microvm.microvm_id,
                account=microvm.account,
                image_arn=microvm.image_arn,
                phase=microvm.phase.value,
                at=self._now,
                memory_mib=microvm.memory_mib,
                stored_bytes=0,
            )
        )

    def turn(self, before: Phase, after: MicroVm) -> None:
        """A change of state: what was used is recorded, the meter goes on or ends."""
        own = meters.c.microvm_id == after.microvm_id
        row = self._connection.execute(select(meters).where(own)).one_or_none()
        if row is None:
            return
        for hour, used in _meter(row).read(self._now):
            self._add(row, hour, used)
        moved = _moved(before, after)
        if moved is not None:
            self._add(row, int(self._now) // HOUR_S * HOUR_S, moved)
        if after.phase is Phase.TERMINATED:
            self._connection.execute(delete(meters).where(own))
            return
        turned = _meter(row).turned(after.phase, self._now, stored_bytes=after.stored_bytes)
        self._connection.execute(
            update(meters)
            .where(own)
            .values(phase=turned.phase.value, at=turned.at, stored_bytes=turned.stored_bytes)
        )

    def of(self, account: str, since: int, until: int) -> list[Used]:
        """Of each MicroVM in the hours from ``since`` to before ``until`` (wall-clock seconds);
        what has not been recorded of those that have not ended is in it."""
        found: dict[str, Used] = {}
        recorded = select(usage).where(
            usage.c.account == account, usage.c.hour >= since, usage.c.hour < until
        )
        for row in self._connection.execute(recorded):
            _sum(found, row, [_usage(row)])
        for row in self._connection.execute(select(meters).where(meters.c.account == account)):
            hours = _meter(row).read(self._now)
            _sum(found, row, (used for hour, used in hours if since <= hour < until))
        return sorted(found.values(), key=lambda used: used.microvm_id)

    def forget(self, before: float, limit: int) -> int:
        """Remove the oldest hours; how many rows there were."""
        old = select(usage.c.microvm_id, usage.c.hour).where(usage.c.hour < before).limit(limit)
        rows = self._connection.execute(old).all()
        for row in rows:
            self._connection.execute(
                delete(usage).where(usage.c.microvm_id == row.microvm_id, usage.c.hour == row.hour)
            )
        return len(rows)

    def _add(self, row: Row[tuple[object, ...]], hour: int, used: Usage) -> None:
        values = asdict(used)
        adding = insert_or(usage).values(
            microvm_id=row.microvm_id,
            hour=hour,
            account=row.account,
            image_arn=row.image_arn,
            **values,
        )
        self._connection.execute(
            adding.on_conflict_do_update(
                index_elements=[usage.c.microvm_id, usage.c.hour],
                set_={name: usage.c[name] + values[name] for name in _MEMBERS},
            )
        )


def _moved(before: Phase, after: MicroVm) -> Usage | None:
    """Bytes of snapshots that the change itself read or wrote."""
    match before, after.phase:
        case Phase.PENDING, Phase.RUNNING:
            return Usage(read_bytes=after.image_bytes)
        case Phase.RESUMING, Phase.RUNNING:
            return Usage(read_bytes=after.stored_bytes)
        case Phase.SUSPENDING, Phase.SUSPENDED:
            return Usage(written_bytes=after.stored_bytes)
        case _:
            return None


def _meter(row: Row[tuple[object, ...]]) -> Meter:
    return Meter(Phase(row.phase), row.at, row.memory_mib, row.stored_bytes)


def _usage(row: Row[tuple[object, ...]]) -> Usage:
    return Usage(**{name: getattr(row, name) for name in _MEMBERS})


def _sum(found: dict[str, Used], row: Row[tuple[object, ...]], more: Iterable[Usage]) -> None:
    for used in more:
        before = found.get(row.microvm_id)
        total = used if before is None else before.usage + used
        found[row.microvm_id] = Used(row.microvm_id, row.image_arn, total)
