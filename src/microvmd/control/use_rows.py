"""What an account has, counted in the store; a part of its transaction.

Each count is a range of an index and never a walk over what has ended: 100,000 TERMINATED MicroVMs
cost a RunMicrovm nothing.
"""

import json
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select, true

from microvmd.control.schema import images, microvms, versions
from microvmd.model.image import VersionState
from microvmd.model.microvm import Phase
from microvmd.model.quota import Use

_NOT_TERMINATED = tuple(phase.value for phase in Phase if phase is not Phase.TERMINATED)
_ON_NODE = tuple(phase.value for phase in Phase if phase.on_node)
_IN_FLIGHT = (VersionState.PENDING.value, VersionState.IN_PROGRESS.value)


class UseRows:
    """Reads of one decision about an account's quotas."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def of(self, account: str) -> Use:
        """All that is counted for the account as a whole."""
        builds = self._baselines(versions.c.account == account)
        return Use(self._microvms(account) + sum(builds), self.images(account), len(builds))

    def images(self, account: str) -> int:
        """Those that are being deleted too: their names are still reserved."""
        return self._count(select(func.count()).where(images.c.account == account))

    def versions(self, account: str, image_name: str) -> int:
        """Of one image, without those that are gone."""
        return self._count(
            select(func.count()).where(
                versions.c.account == account,
                versions.c.image_name == image_name,
                versions.c.state != VersionState.DELETED.value,
            )
        )

    def on_node(self) -> list[tuple[str, int]]:
        """Id and baseline of every MicroVM that has a VMM or is about to, of all accounts."""
        query = select(microvms.c.microvm_id, microvms.c.memory_mib).where(
            microvms.c.phase.in_(_ON_NODE)
        )
        return [(row.microvm_id, row.memory_mib) for row in self._connection.execute(query)]

    def building(self) -> list[int]:
        """Baselines of all builds in flight, of all accounts."""
        return self._baselines()

    def _microvms(self, account: str) -> int:
        return self._count(
            select(func.coalesce(func.sum(microvms.c.memory_mib), 0)).where(
                microvms.c.account == account, microvms.c.phase.in_(_NOT_TERMINATED)
            )
        )

    def _baselines(self, *whose: ColumnElement[bool]) -> list[int]:
        """Of builds in flight. Two queries, each a range of an index."""
        return [
            int(json.loads(row.document)["config"]["memory_mib"])
            for built in (versions.c.state.in_(_IN_FLIGHT), versions.c.rebuilding.is_(true()))
            for row in self._connection.execute(select(versions.c.document).where(built, *whose))
        ]

    def _count(self, query: Select[Any]) -> int:
        return int(self._connection.execute(query).scalar_one())
