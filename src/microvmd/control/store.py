"""The record: rows to model values and back, one transaction for each decision.

SQLAlchemy Core, SQLite by default. All statements run in one thread: SQLite has one writer anyway,
and decisions then have one order. ``synchronous=FULL``: a state that was answered survives a power
cut (a SUSPENDED MicroVM whose row was lost would be swept).
"""

import asyncio
import contextlib
import contextvars
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
from alembic import command as alembic
from alembic.config import Config
from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, Row, Select, create_engine, delete, event, insert, select
from sqlalchemy import update as update_rows
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError

from microvmd.control.connector_rows import ConnectorRows
from microvmd.control.event_rows import EventRows
from microvmd.control.identity_rows import IdentityRows
from microvmd.control.meter_rows import MeterRows
from microvmd.control.schema import client_tokens, images, microvms, versions
from microvmd.control.seldom import Seldom
from microvmd.control.use_rows import UseRows
from microvmd.model.errors import StoreUnavailable
from microvmd.model.event import build_change, image_change, microvm_change, version_change
from microvmd.model.identifiers import ImageVersion
from microvmd.model.image import Image, ImageState, Version, VersionState
from microvmd.model.microvm import MicroVm, Phase

T = TypeVar("T")

log = structlog.get_logger(__name__)

PASSING = {
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_IOERR: "its disk fails",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_BUSY: "another program has locked it",
    sqlite3.SQLITE_LOCKED: "another of its statements has locked it",
    sqlite3.SQLITE_PROTOCOL: "its lock cannot be taken",
    sqlite3.SQLITE_READONLY: "its file can only be read",
    sqlite3.SQLITE_PERM: "access to its file is denied",
}
"""SQLite's results that are no fault of the statement."""

_IMAGE = TypeAdapter(Image)
_VERSION = TypeAdapter(Version)
_MICROVM = TypeAdapter(MicroVm)


class Transaction:
    """Reads and writes of one decision. Every change of a state leaves an event."""

    def __init__(self, connection: Connection, now: float) -> None:
        self._connection = connection
        self.events = EventRows(connection, now)
        self.connectors = ConnectorRows(connection, self.events)
        self.use = UseRows(connection)
        self.meters = MeterRows(connection, now)

    @property
    def identities(self) -> IdentityRows:
        """Accounts, users, policies, keys and sessions."""
        return IdentityRows(self._connection)

    def image(self, account: str, name: str) -> Image | None:
        row = self._one(
            select(images.c.document).where(images.c.account == account, images.c.name == name)
        )
        return None if row is None else _IMAGE.validate_json(row.document)

    def images(
        self, account: str, *, after: str | None = None, limit: int | None = None
    ) -> list[Image]:
        """By name. ``after`` is the last name of the page before."""
        query = select(images.c.document).where(images.c.account == account).order_by(images.c.name)
        if after is not None:
            query = query.where(images.c.name > after)
        return [_IMAGE.validate_json(row.document) for row in self._all(query.limit(limit))]

    def add_image(self, image: Image) -> None:
        self._connection.execute(
            insert(images).values(account=image.account, name=image.name, **_image_row(image))
        )
        self.events.add(image_change(None, image))

    def save_image(self, image: Image) -> None:
        before = self.image(image.account, image.name)
        self._connection.execute(
            update_rows(images)
            .where(images.c.account == image.account, images.c.name == image.name)
            .values(**_image_row(image))
        )
        if before is not None and before.state is not image.state:
            self.events.add(image_change(before.state.value, image))

    def remove_image(self, account: str, name: str) -> None:
        """With its versions: the name is then free."""
        gone = self.image(account, name)
        if gone is not None:
            deleted = replace(gone, state=ImageState.DELETED)
            self.events.add(image_change(gone.state.value, deleted))
        for table, column in ((versions, versions.c.image_name), (images, images.c.name)):
            self._connection.execute(
                delete(table).where(table.c.account == account, column == name)
            )

    def version(self, account: str, image_name: str, number: ImageVersion) -> Version | None:
        row = self._one(
            select(versions.c.document).where(
                versions.c.account == account,
                versions.c.image_name == image_name,
                versions.c.major == number.major,
                versions.c.minor == number.minor,
            )
        )
        return None if row is None else _VERSION.validate_json(row.document)

    def versions(self, account: str, image_name: str) -> list[Version]:
        """Newest first, deleted ones included: their numbers stay used."""
        query = (
            select(versions.c.document)
            .where(versions.c.account == account, versions.c.image_name == image_name)
            .order_by(versions.c.major.desc(), versions.c.minor.desc())
        )
        return [_VERSION.validate_json(row.document) for row in self._all(query)]

    def versions_in(self, *states: VersionState) -> list[Version]:
        query = select(versions.c.document).where(
            versions.c.state.in_([state.value for state in states])
        )
        return [_VERSION.validate_json(row.document) for row in self._all(query)]

    def add_version(self, version: Version) -> None:
        self._connection.execute(
            insert(versions).values(
                account=version.account,
                image_name=version.image_name,
                major=version.number.major,
                minor=version.number.minor,
                **_version_row(version),
            )
        )
        self._version_changed(None, version)

    def save_version(self, version: Version) -> None:
        before = self.version(version.account, version.image_name, version.number)
        self._connection.execute(
            update_rows(versions)
            .where(
                versions.c.account == version.account,
                versions.c.image_name == version.image_name,
                versions.c.major == version.number.major,
                versions.c.minor == version.number.minor,
            )
            .values(**_version_row(version))
        )
        if before is not None and (before.state, before.status) != (version.state, version.status):
            self._version_changed(before, version)
        if before is not None and before.rebuilds != version.rebuilds:
            self._rebuilds_changed(before, version)

    def _version_changed(self, before: Version | None, after: Version) -> None:
        image = self.image(after.account, after.image_name)
        if image is not None:
            state = None if before is None else before.state.value
            self.events.add(version_change(state, after, image.arn))

    def _rebuilds_changed(self, before: Version, after: Version) -> None:
        image = self.image(after.account, after.image_name)
        states = {build.build_id: build.state for build in before.rebuilds}
        for build in after.rebuilds:
            state = states.get(build.build_id)
            if image is not None and state is not build.state:
                self.events.add(build_change(state, build, after, image.arn))

    def microvm(self, microvm_id: str) -> MicroVm | None:
        row = self._one(select(microvms.c.document).where(microvms.c.microvm_id == microvm_id))
        return None if row is None else _MICROVM.validate_json(row.document)

    def microvm_at(self, endpoint_id: str) -> MicroVm | None:
        row = self._one(select(microvms.c.document).where(microvms.c.endpoint_id == endpoint_id))
        return None if row is None else _MICROVM.validate_json(row.document)

    def microvms(
        self,
        account: str,
        *,
        image_arn: str | None = None,
        image_version: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[tuple[int, MicroVm]]:
        """Newest first, with the sequence number that the next page starts ``before``."""
        query = (
            select(microvms.c.sequence, microvms.c.document)
            .where(microvms.c.account == account)
            .order_by(microvms.c.sequence.desc())
            .limit(limit)
        )
        if image_arn is not None:
            query = query.where(microvms.c.image_arn == image_arn)
        if image_version is not None:
            query = query.where(microvms.c.image_version == image_version)
        if before is not None:
            query = query.where(microvms.c.sequence < before)
        return [(row.sequence, _MICROVM.validate_json(row.document)) for row in self._all(query)]

    def microvms_not_terminated(self) -> list[MicroVm]:
        """Of all accounts, in the order they were run."""
        others = [phase.value for phase in Phase if phase is not Phase.TERMINATED]
        query = (
            select(microvms.c.document)
            .where(microvms.c.phase.in_(others))
            .order_by(microvms.c.sequence)
        )
        return [_MICROVM.validate_json(row.document) for row in self._all(query)]

    def add_microvm(self, microvm: MicroVm) -> None:
        self._connection.execute(
            insert(microvms).values(
                microvm_id=microvm.microvm_id,
                account=microvm.account,
                endpoint_id=microvm.endpoint_id,
                image_arn=microvm.image_arn,
                image_version=microvm.image_version,
                memory_mib=microvm.memory_mib,
                **_microvm_row(microvm),
            )
        )
        self.events.add(microvm_change(None, microvm))
        self.meters.begin(microvm)

    def save_microvm(self, microvm: MicroVm) -> None:
        phase = select(microvms.c.phase).where(microvms.c.microvm_id == microvm.microvm_id)
        before = self._connection.execute(phase).scalar_one_or_none()
        self._connection.execute(
            update_rows(microvms)
            .where(microvms.c.microvm_id == microvm.microvm_id)
            .values(**_microvm_row(microvm))
        )
        if before is not None and before != microvm.phase.value:
            self.events.add(microvm_change(before, microvm))
            self.meters.turn(Phase(before), microvm)

    def forget_terminated(self, before: float, limit: int) -> int:
        """Remove the longest ended MicroVMs and their client tokens; how many there were."""
        found = self._all(
            select(microvms.c.microvm_id, microvms.c.account)
            .where(microvms.c.terminated_at < before)
            .order_by(microvms.c.terminated_at)
            .limit(limit)
        )
        if not found:
            return 0
        names = [row.microvm_id for row in found]
        self._connection.execute(
            delete(client_tokens).where(
                client_tokens.c.account.in_({row.account for row in found}),
                client_tokens.c.resource.in_(names),
            )
        )
        self._connection.execute(delete(microvms).where(microvms.c.microvm_id.in_(names)))
        return len(names)

    def client_token(self, account: str, operation: str, token: str) -> tuple[str, str] | None:
        """Fingerprint of the first request and the resource that it made."""
        row = self._one(
            select(client_tokens.c.fingerprint, client_tokens.c.resource).where(
                client_tokens.c.account == account,
                client_tokens.c.operation == operation,
                client_tokens.c.token == token,
            )
        )
        return None if row is None else (row.fingerprint, row.resource)

    def add_client_token(
        self, account: str, operation: str, token: str, fingerprint: str, resource: str, now: float
    ) -> None:
        self._connection.execute(
            insert(client_tokens).values(
                account=account,
                operation=operation,
                token=token,
                fingerprint=fingerprint,
                resource=resource,
                created_at=now,
            )
        )

    def forget_client_tokens(self, account: str, resource: str) -> None:
        """Those of a resource and of its parts (``<resource> <part>``)."""
        column = client_tokens.c.resource
        of_parts = column.startswith(f"{resource} ", autoescape=True)
        self._connection.execute(
            delete(client_tokens).where(
                client_tokens.c.account == account, (column == resource) | of_parts
            )
        )

    def _one(self, query: Select[Any]) -> Row[Any] | None:
        return self._connection.execute(query).one_or_none()

    def _all(self, query: Select[Any]) -> list[Row[Any]]:
        return list(self._connection.execute(query).all())


class Store:
    """Owns the database. ``await store.run(decide)`` is one transaction.

    ``next_event`` is set, and replaced by a new one, when events were committed.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self.next_event = asyncio.Event()
        self._clock = clock
        self._engine = _engine(url)
        self._unavailable = Seldom()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    @classmethod
    def at(cls, path: Path, clock: Callable[[], float] = time.time) -> Self:
        """The record at this path, for its owner only: it holds what callers have told us.
        ``clock`` gives wall-clock seconds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        # SQLite gives its log and index the mode of the database; those of before are mended, too.
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(name).chmod(0o600)
        return cls(f"sqlite:///{path}", clock)

    async def __aenter__(self) -> Self:
        try:
            await self._in_thread(self._migrate)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._thread.shutdown(wait=True)
        self._engine.dispose()

    async def run(self, decide: Callable[[Transaction], T]) -> T:
        """Commit what ``decide`` wrote, or nothing if it raised. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        return await self._in_thread(lambda: context.run(self._decided, decide, loop))

    def _decided(self, decide: Callable[[Transaction], T], loop: asyncio.AbstractEventLoop) -> T:
        try:
            with self._engine.begin() as connection:
                transaction = Transaction(connection, self._clock())
                decided = decide(transaction)
        except OperationalError as error:
            why = _passing(error)
            if why is None:
                raise
            if self._unavailable.due():
                log.error("store.unavailable", reason=why)
            raise StoreUnavailable(f"the record cannot be written: {why}") from error
        if transaction.events.added:
            loop.call_soon_threadsafe(self._tell)
        return decided

    def _tell(self) -> None:
        told, self.next_event = self.next_event, asyncio.Event()
        told.set()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        # Shielded: a decision that still waits for the thread is made, though its caller is gone.
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, call))

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", "microvmd.control:migrations")
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            alembic.upgrade(config, "head")


def _passing(error: OperationalError) -> str | None:
    """Why the database does not work now; None for what stays wrong: a statement, or what the
    driver itself refuses, which has no code."""
    code = getattr(error.orig, "sqlite_errorcode", 0)
    # The low byte is the result, what is above tells it more closely.
    return PASSING.get(code & 0xFF)


def _engine(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _pragmas(connection: DBAPIConnection, _record: object) -> None:
            # The driver must not open transactions by itself: we begin IMMEDIATE below.
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _image_row(image: Image) -> dict[str, Any]:
    return {
        "state": image.state.value,
        "created_at": image.created_at,
        "document": _IMAGE.dump_json(image).decode(),
    }


def _version_row(version: Version) -> dict[str, Any]:
    return {
        "state": version.state.value,
        "rebuilding": version.rebuilding,
        "document": _VERSION.dump_json(version).decode(),
    }


def _microvm_row(microvm: MicroVm) -> dict[str, Any]:
    return {
        "phase": microvm.phase.value,
        "terminated_at": microvm.terminated_at,
        "document": _MICROVM.dump_json(microvm).decode(),
    }
