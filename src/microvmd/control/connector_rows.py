"""Rows of network connectors and their versions; a part of the store's transaction.

A deleted connector stays for a day as a row that only a repeated delete finds.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Select, delete, func, insert, select, update

from microvmd.control.event_rows import EventRows
from microvmd.control.schema import connector_versions, connectors
from microvmd.model.event import connector_change
from microvmd.model.vpc_connector import Connector, ConnectorState, ConnectorVersion

_CONNECTOR = TypeAdapter(Connector)
_VERSION = TypeAdapter(ConnectorVersion)
_DELETED = ConnectorState.DELETED.value


class ConnectorRows:
    """Reads and writes of one decision about connectors."""

    def __init__(self, connection: Connection, events: EventRows) -> None:
        self._connection = connection
        self._events = events

    def find(self, account: str, key: str) -> Connector | None:
        """By id or by name; of several deleted ones with a name, the last."""
        by_key = (connectors.c.connector_id == key) | (connectors.c.name == key)
        query = (
            select(connectors.c.document)
            .where(connectors.c.account == account, by_key)
            .order_by(
                (connectors.c.connector_id == key).desc(),
                (connectors.c.state == _DELETED).asc(),
                connectors.c.sequence.desc(),
            )
            .limit(1)
        )
        return next(iter(self._read(query)), None)

    def by_id(self, connector_id: str) -> Connector | None:
        """Of whatever account, deleted or not."""
        query = select(connectors.c.document).where(connectors.c.connector_id == connector_id)
        return next(iter(self._read(query)), None)

    def page(
        self,
        account: str,
        *,
        state: ConnectorState | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[tuple[int, Connector]]:
        """Newest first, with the sequence number that the next page starts ``before``."""
        query = (
            select(connectors.c.sequence, connectors.c.document)
            .where(connectors.c.account == account, connectors.c.state != _DELETED)
            .order_by(connectors.c.sequence.desc())
            .limit(limit)
        )
        if state is not None:
            query = query.where(connectors.c.state == state.value)
        if before is not None:
            query = query.where(connectors.c.sequence < before)
        rows = self._connection.execute(query).all()
        return [(row.sequence, _CONNECTOR.validate_json(row.document)) for row in rows]

    def count(self, account: str) -> int:
        """Live ones."""
        query = select(func.count()).where(
            connectors.c.account == account, connectors.c.state != _DELETED
        )
        return int(self._connection.execute(query.select_from(connectors)).scalar_one())

    def in_state(self, *states: ConnectorState) -> list[Connector]:
        """Of all accounts."""
        wanted = [state.value for state in states]
        return self._read(
            select(connectors.c.document)
            .where(connectors.c.state.in_(wanted))
            .order_by(connectors.c.sequence)
        )

    def add(self, connector: Connector) -> None:
        self._connection.execute(
            insert(connectors).values(
                connector_id=connector.connector_id,
                account=connector.account,
                name=connector.name,
                **_row(connector),
            )
        )
        self._events.add(connector_change(None, connector))

    def save(self, connector: Connector) -> None:
        before = self.by_id(connector.connector_id)
        self._connection.execute(
            update(connectors)
            .where(connectors.c.connector_id == connector.connector_id)
            .values(**_row(connector))
        )
        if before is not None and before.state is not connector.state:
            self._events.add(connector_change(before.state.value, connector))

    def forget_deleted(self, before: float) -> None:
        """Drop what was deleted before this moment."""
        self._connection.execute(
            delete(connectors).where(
                connectors.c.state == _DELETED, connectors.c.modified_at < before
            )
        )

    def version(self, connector_id: str, number: int) -> ConnectorVersion | None:
        rows = self.versions(connector_id, number=number)
        return rows[0] if rows else None

    def versions(
        self,
        connector_id: str,
        *,
        number: int | None = None,
        state: ConnectorState | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[ConnectorVersion]:
        """Newest first."""
        query = (
            select(connector_versions.c.document)
            .where(connector_versions.c.connector_id == connector_id)
            .order_by(connector_versions.c.number.desc())
            .limit(limit)
        )
        if number is not None:
            query = query.where(connector_versions.c.number == number)
        if state is not None:
            query = query.where(connector_versions.c.state == state.value)
        if before is not None:
            query = query.where(connector_versions.c.number < before)
        rows = self._connection.execute(query).all()
        return [_VERSION.validate_json(row.document) for row in rows]

    def versions_in(self, *states: ConnectorState) -> list[ConnectorVersion]:
        """Of all connectors."""
        wanted = [state.value for state in states]
        query = select(connector_versions.c.document).where(connector_versions.c.state.in_(wanted))
        rows = self._connection.execute(query).all()
        return [_VERSION.validate_json(row.document) for row in rows]

    def add_version(self, version: ConnectorVersion) -> None:
        self._connection.execute(
            insert(connector_versions).values(
                connector_id=version.connector_id,
                number=version.number,
                **_version_row(version),
            )
        )

    def save_version(self, version: ConnectorVersion) -> None:
        self._connection.execute(
            update(connector_versions)
            .where(
                connector_versions.c.connector_id == version.connector_id,
                connector_versions.c.number == version.number,
            )
            .values(**_version_row(version))
        )

    def remove_versions(self, connector_id: str, numbers: Sequence[int]) -> None:
        self._connection.execute(
            delete(connector_versions).where(
                connector_versions.c.connector_id == connector_id,
                connector_versions.c.number.in_(numbers),
            )
        )

    def _read(self, query: Select[Any]) -> list[Connector]:
        rows = self._connection.execute(query).all()
        return [_CONNECTOR.validate_json(row.document) for row in rows]


def _row(connector: Connector) -> dict[str, Any]:
    return {
        "state": connector.state.value,
        "modified_at": connector.modified_at,
        "document": _CONNECTOR.dump_json(connector).decode(),
    }


def _version_row(version: ConnectorVersion) -> dict[str, Any]:
    return {"state": version.state.value, "document": _VERSION.dump_json(version).decode()}
