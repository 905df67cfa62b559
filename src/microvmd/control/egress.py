"""The use of network connectors by MicroVMs and builds: which versions, and what they open.

An unqualified ARN means the version in force when the MicroVM is run or the image is built. The
MicroVM keeps that version through suspends, whatever the connector becomes; what is deleted opens
nothing.
"""

from collections.abc import Iterator, Sequence

from microvmd.control.store import Transaction
from microvmd.model import connector as managed
from microvmd.model.egress import Egress, EgressMap, Reach, grant_of
from microvmd.model.errors import ValidationError
from microvmd.model.vpc_connector import (
    MICROVM,
    Connector,
    ConnectorRef,
    ConnectorState,
    ConnectorVersion,
    not_found,
)


class ConnectorUse:
    """What egress lists of requests mean, by the operator's ``networks``."""

    def __init__(self, region: str, networks: EgressMap) -> None:
        self._region = region
        self._networks = networks

    def remap(self, networks: EgressMap) -> None:
        """What the operator's mapping is from now on."""
        self._networks = networks

    def pin(self, tx: Transaction, account: str, arns: Sequence[str]) -> tuple[str, ...]:
        """The versions of the account's own connectors in a checked list, as grants. Raise
        NotFound or ValidationError for one that cannot be used now."""
        return tuple(
            grant_of(version.connector_id, version.number)
            for version in (self._usable(tx, account, arn) for arn in arns if managed.is_own(arn))
        )

    def opened(self, tx: Transaction, arns: Sequence[str], grants: Sequence[str]) -> Egress:
        """What a guest may reach by its list and the versions that were pinned for it."""
        internet = any(
            managed.name_of(arn) == managed.Egress.INTERNET.value
            for arn in arns
            if not managed.is_own(arn)
        )
        return Egress(internet, tuple(self._reaches(tx, grants)))

    def _reaches(self, tx: Transaction, grants: Sequence[str]) -> Iterator[Reach]:
        for grant in grants:
            connector_id, number = grant.rsplit(":", 1)
            connector = tx.connectors.by_id(connector_id)
            version = tx.connectors.version(connector_id, int(number))
            if connector is not None and version is not None and _ready(connector, version):
                yield from self._networks.reaches(version.account, grant, version.config)

    def _usable(self, tx: Transaction, account: str, arn: str) -> ConnectorVersion:
        ref = ConnectorRef.parse(arn, account, self._region)
        connector = tx.connectors.find(account, ref.key)
        if connector is None or not connector.live:
            raise not_found(arn, account, self._region)
        number = connector.current if ref.version is None else ref.version
        version = tx.connectors.version(connector.connector_id, number)
        if version is None:
            raise not_found(arn, account, self._region)
        if not _ready(connector, version):
            raise ValidationError(f"Network connector is not in ACTIVE state: {arn}")
        if MICROVM not in version.config.compute_types:
            raise ValidationError(f"Network connector is not for compute type {MICROVM}: {arn}")
        return version


def _ready(connector: Connector, version: ConnectorVersion) -> bool:
    return connector.state is version.state is ConnectorState.ACTIVE
