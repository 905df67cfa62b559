"""The rows of accounts, users, policies, keys and sessions: the store's other half."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select, update

from microvmd.control.schema import access_keys, accounts, sessions, user_policies, users
from microvmd.model.account import AccessKey, Account, User


class IdentityRows:
    """Reads and writes within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def accounts(self) -> list[Account]:
        return [Account(**row) for row in self._rows(accounts)]

    def add_account(self, account: Account) -> None:
        self._connection.execute(insert(accounts).values(**asdict(account)))

    def users(self) -> list[User]:
        return [User(**row) for row in self._rows(users)]

    def add_user(self, user: User) -> None:
        self._connection.execute(insert(users).values(**asdict(user)))

    def remove_user(self, account: str, name: str) -> None:
        """With its keys and policies."""
        for table, column in (
            (access_keys, access_keys.c.user),
            (user_policies, user_policies.c.user),
            (users, users.c.name),
        ):
            self._connection.execute(
                delete(table).where(table.c.account == account, column == name)
            )

    def policies(self) -> list[tuple[str, str, str, str]]:
        """Account, user, name and document of each."""
        query = select(
            user_policies.c.account,
            user_policies.c.user,
            user_policies.c.name,
            user_policies.c.document,
        )
        return [tuple(row) for row in self._connection.execute(query)]

    def put_policy(self, account: str, user: str, name: str, document: str) -> None:
        self.remove_policy(account, user, name)
        self._connection.execute(
            insert(user_policies).values(account=account, user=user, name=name, document=document)
        )

    def remove_policy(self, account: str, user: str, name: str) -> None:
        table = user_policies
        self._connection.execute(
            delete(table).where(
                table.c.account == account, table.c.user == user, table.c.name == name
            )
        )

    def access_keys(self) -> list[AccessKey]:
        return [AccessKey(**row) for row in self._rows(access_keys)]

    def add_key(self, key: AccessKey) -> None:
        self._connection.execute(insert(access_keys).values(**asdict(key)))

    def save_key(self, key: AccessKey) -> None:
        self._connection.execute(
            update(access_keys)
            .where(access_keys.c.access_key == key.access_key)
            .values(ends_at=key.ends_at, last_used_at=key.last_used_at)
        )

    def remove_key(self, access_key: str) -> None:
        self._connection.execute(delete(access_keys).where(access_keys.c.access_key == access_key))

    def sessions(self, after: float) -> list[tuple[str, str, float, str]]:
        """Access key, account, end and sealed content of those that end after a moment."""
        query = (
            select(
                sessions.c.access_key, sessions.c.account, sessions.c.expires_at, sessions.c.sealed
            )
            .where(sessions.c.expires_at > after)
            .order_by(sessions.c.expires_at)
        )
        return [tuple(row) for row in self._connection.execute(query)]

    def add_session(self, access_key: str, account: str, expires_at: float, sealed: str) -> None:
        self._connection.execute(
            insert(sessions).values(
                access_key=access_key, account=account, expires_at=expires_at, sealed=sealed
            )
        )

    def remove_sessions(self, *keys: str, until: float | None = None) -> None:
        """Those named, and those that expired by ``until``."""
        self._connection.execute(delete(sessions).where(sessions.c.access_key.in_(keys)))
        if until is not None:
            self._connection.execute(delete(sessions).where(sessions.c.expires_at <= until))

    def _rows(self, table: Table) -> list[dict[str, Any]]:
        order = list(table.primary_key.columns)
        query = select(table).order_by(*order)
        return [dict(row) for row in self._connection.execute(query).mappings()]
