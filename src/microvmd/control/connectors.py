"""Network connectors of an account: load, decide with the model, save, then tell the node.

A node has nothing to build for a connector: it says whether it can enforce it (PENDING becomes
ACTIVE), and takes away what guests have of it (DELETING ends).
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from microvmd.control.paging import Cursors, Page
from microvmd.control.replay import remember, replayed
from microvmd.control.store import Store, Transaction
from microvmd.messages.node import (
    ConnectorProvisioned,
    ConnectorRevoked,
    Node,
    ProvisionConnector,
    RevokeConnector,
)
from microvmd.model.egress import Egress, EgressMap, grant_of
from microvmd.model.errors import Conflict, InvalidParameter, QuotaExceeded, ValidationError
from microvmd.model.vpc_connector import (
    Connector,
    ConnectorEvent,
    ConnectorLimits,
    ConnectorRef,
    ConnectorState,
    ConnectorVersion,
    Failure,
    FailureCode,
    VpcEgress,
    apply_connector,
    apply_version,
    check_name,
    not_found,
    update_begun,
    update_settled,
    update_without_change,
)

log = structlog.get_logger(__name__)

CONNECTORS_PAGE = 50
"""The longest page of connectors that the model has; MaxItems may ask for more, up to 100."""
VERSIONS_PAGE = 100
DELETED_KEPT_S = 24 * 3600.0
"""How long a deleted connector can be deleted again."""
TAGS = 50


@dataclass(frozen=True, slots=True)
class ConnectorView:
    """A connector and one version of it; ``qualified`` if the request named the version."""

    connector: Connector
    version: ConnectorVersion
    qualified: bool = False


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a delete began or found: a connector, or its version ``number``; ``version`` is what the
    answer shows, and None when it is gone already."""

    connector: Connector
    number: int | None
    version: ConnectorVersion | None


class Connectors:
    """All decisions about connectors. ``clock`` gives wall-clock seconds."""

    def __init__(
        self,
        store: Store,
        node: Node,
        cursors: Cursors,
        clock: Callable[[], float],
        region: str,
        *,
        networks: EgressMap | None = None,
        limits: ConnectorLimits | None = None,
    ) -> None:
        self._store = store
        self._node = node
        self._cursors = cursors
        self._clock = clock
        self._region = region
        self._networks = networks or EgressMap()
        self._limits = limits or ConnectorLimits()

    def remap(self, networks: EgressMap) -> None:
        """What the operator's mapping is for versions that are made from now on."""
        self._networks = networks

    async def create(self, account: str, request: Mapping[str, Any]) -> ConnectorView:
        """CreateNetworkConnector: the connector, PENDING, with its version 1."""
        # Recorded: required although the model calls them optional.
        if not request.get("ClientToken"):
            raise InvalidParameter("ClientToken is a required field")
        check_name(request["Name"])
        config = VpcEgress.from_request(request["Configuration"])
        if not request.get("OperatorRole"):
            raise InvalidParameter(
                "NetworkConnectorOperatorRole is required for VPC_EGRESS connector type"
            )
        tags = dict(request.get("Tags") or {})
        _check_tags(tags)
        said, now = _with_token(request), self._clock()

        def decide(tx: Transaction) -> tuple[ConnectorView, bool]:
            done = replayed(tx, account, "CreateNetworkConnector", said)
            if done is not None:
                return self._view(tx, ConnectorRef(account, self._region, done)), False
            same = tx.connectors.find(account, request["Name"])
            if same is not None and same.live:
                raise Conflict(f"Network connector already exists: {same.arn}")
            if tx.connectors.count(account) >= self._limits.connectors:
                raise QuotaExceeded(
                    f"The account has {self._limits.connectors} network connectors, which is the "
                    "most. Delete one first."
                )
            connector = Connector(
                account, self._region, f"nc-{uuid.uuid4()}", request["Name"], now, now, tags=tags
            )
            version = _version(connector, 1, config, request["OperatorRole"], now)
            tx.connectors.forget_deleted(now - DELETED_KEPT_S)
            tx.connectors.add(connector)
            tx.connectors.add_version(version)
            remember(tx, account, "CreateNetworkConnector", said, connector.connector_id, now)
            return ConnectorView(connector, version), True

        view, made = await self._store.run(decide)
        if made:
            await self._provision(view.version)
        return view

    async def update(self, account: str, request: Mapping[str, Any]) -> ConnectorView:
        """UpdateNetworkConnector: a further version, or none if nothing changes."""
        ref = self._unqualified(account, request["Identifier"])
        said, now = _with_token(request), self._clock()

        def decide(tx: Transaction) -> tuple[ConnectorView, bool]:
            connector = _live(tx, ref)
            operation = f"UpdateNetworkConnector {connector.connector_id}"
            done = replayed(tx, account, operation, said)
            if done is not None:
                number = int(done.rsplit(" ", 1)[1])
                return self._view(tx, replace(ref, version=number)), False
            apply_connector(connector, ConnectorEvent.UPDATE_REQUESTED, now)
            before = tx.connectors.version(connector.connector_id, connector.current)
            assert before is not None, "the version in force cannot be deleted alone"
            config = _changed(before.config, request.get("Configuration"))
            role = request.get("OperatorRole") or before.operator_role
            if config.same_as(before.config) and role == before.operator_role:
                connector = update_without_change(connector)
                view = ConnectorView(connector, before)
            else:
                self._check_versions(tx, connector)
                connector = update_begun(connector, now)
                version = _version(connector, connector.newest, config, role, now)
                tx.connectors.add_version(version)
                view = ConnectorView(connector, version)
            tx.connectors.save(connector)
            resource = f"{connector.connector_id} {view.version.number}"
            remember(tx, account, operation, said, resource, now)
            return view, view.version is not before

        view, made = await self._store.run(decide)
        if made:
            await self._provision(view.version)
        return view

    async def get(self, account: str, identifier: str) -> ConnectorView:
        ref = ConnectorRef.parse(identifier, account, self._region)
        return await self._store.run(lambda tx: self._view(tx, ref))

    async def list_connectors(
        self,
        account: str,
        *,
        state: ConnectorState | None = None,
        max_items: int | None = None,
        marker: str | None = None,
    ) -> Page[Connector]:
        """Newest first."""
        scope = f"connectors {account} {state}"
        before = self._position(scope, marker)
        limit = min(max_items or CONNECTORS_PAGE, CONNECTORS_PAGE)
        found = await self._store.run(
            lambda tx: tx.connectors.page(
                account,
                state=state,
                before=before,
                limit=limit + 1,
            )
        )
        page = found[:limit]
        more = self._cursors.seal(scope, page[-1][0]) if len(found) > limit else None
        return Page([connector for _, connector in page], more)

    async def list_versions(
        self,
        account: str,
        identifier: str,
        *,
        state: ConnectorState | None = None,
        max_items: int | None = None,
        marker: str | None = None,
    ) -> Page[ConnectorView]:
        """Newest first."""
        ref = self._unqualified(account, identifier)
        scope = f"connector versions {account} {identifier} {state}"
        before = self._position(scope, marker)
        limit = max_items or VERSIONS_PAGE

        def read(tx: Transaction) -> list[ConnectorView]:
            connector = _live(tx, ref)
            found = tx.connectors.versions(
                connector.connector_id,
                state=state,
                before=before,
                limit=limit + 1,
            )
            return [ConnectorView(connector, version, qualified=True) for version in found]

        found = await self._store.run(read)
        page = found[:limit]
        more = self._cursors.seal(scope, page[-1].version.number) if len(found) > limit else None
        return Page(page, more)

    async def delete(self, account: str, identifier: str) -> Deletion:
        """A connector with all versions, or one version; a second time too. Who uses it loses it
        at once."""
        ref = ConnectorRef.parse(identifier, account, self._region)
        now = self._clock()

        def decide(tx: Transaction) -> tuple[Deletion, tuple[int, ...]]:
            connector = tx.connectors.find(account, ref.key)
            if connector is None:
                raise not_found(identifier, account, self._region)
            if ref.version is not None:
                return _version_doomed(tx, connector, ref.version, now)
            doomed = apply_connector(connector, ConnectorEvent.DELETE_REQUESTED, now)
            rows = tx.connectors.versions(connector.connector_id)
            version = next((one for one in rows if one.number == connector.current), None)
            if doomed is connector:
                return Deletion(connector, None, version), ()
            tx.connectors.save(doomed)
            return Deletion(doomed, None, version), tuple(one.number for one in rows)

        deletion, numbers = await self._store.run(decide)
        if numbers:
            await self._node.send(RevokeConnector(deletion.connector.connector_id, numbers))
        return deletion

    async def tags(self, account: str, identifier: str) -> Mapping[str, str]:
        return (await self.get(account, identifier)).connector.tags

    async def set_tags(self, account: str, identifier: str, tags: Mapping[str, str]) -> None:
        await self._retag(account, identifier, lambda old: {**old, **tags})

    async def remove_tags(self, account: str, identifier: str, keys: Sequence[str]) -> None:
        await self._retag(
            account, identifier, lambda old: {k: v for k, v in old.items() if k not in keys}
        )

    async def report(self, report: ConnectorProvisioned | ConnectorRevoked) -> None:
        """What a node says."""
        if isinstance(report, ConnectorRevoked):
            await self._revoked(report)
            return
        failure = None
        if report.error is not None:
            log.error("connector.not_provisioned", id=report.connector_id, error=report.error)
            failure = Failure(FailureCode.INTERNAL_ERROR, "The node cannot enforce the connector.")
        await self._provisioned(report.connector_id, report.number, failure)

    async def go_on_after_restart(self) -> None:
        """Ask the node again for whatever was under way."""

        def read(tx: Transaction) -> tuple[list[ConnectorVersion], list[RevokeConnector]]:
            rows = tx.connectors
            doomed = [
                RevokeConnector(one.connector_id, (one.number,))
                for one in rows.versions_in(ConnectorState.DELETING)
            ]
            for connector in rows.in_state(ConnectorState.DELETING):
                numbers = tuple(v.number for v in rows.versions(connector.connector_id))
                doomed.append(RevokeConnector(connector.connector_id, numbers))
            return rows.versions_in(ConnectorState.PENDING), doomed

        pending, doomed = await self._store.run(read)
        for version in pending:
            await self._provision(version)
        for command in doomed:
            await self._node.send(command)

    async def _provision(self, version: ConnectorVersion) -> None:
        """What the operator's mapping refuses needs no node."""
        failure = self._networks.failure(version.account, version.config)
        if failure is not None:
            await self._provisioned(version.connector_id, version.number, failure)
            return
        grant = grant_of(version.connector_id, version.number)
        reaches = self._networks.reaches(version.account, grant, version.config)
        await self._node.send(
            ProvisionConnector(version.connector_id, version.number, Egress(reaches=reaches))
        )

    async def _provisioned(self, connector_id: str, number: int, failure: Failure | None) -> None:
        now = self._clock()
        ok = failure is None
        event = ConnectorEvent.PROVISIONED if ok else ConnectorEvent.PROVISION_FAILED

        def decide(tx: Transaction) -> None:
            connector = tx.connectors.by_id(connector_id)
            version = tx.connectors.version(connector_id, number)
            if connector is None or version is None:
                return
            tx.connectors.save_version(apply_version(version, event, now, failure))
            if number == connector.current:
                connector = apply_connector(connector, event, now, failure)
            tx.connectors.save(update_settled(connector, number, failure, now))

        await self._store.run(decide)

    async def _revoked(self, report: ConnectorRevoked) -> None:
        now = self._clock()
        failure = None
        if report.error is not None:
            log.error("connector.not_revoked", id=report.connector_id, error=report.error)
            text = "The connector could not be taken from every MicroVM. Delete it again."
            failure = Failure(FailureCode.INTERNAL_ERROR, text)
        event = ConnectorEvent.REMOVED if failure is None else ConnectorEvent.REMOVE_FAILED

        def decide(tx: Transaction) -> None:
            rows = tx.connectors
            connector = rows.by_id(report.connector_id)
            if connector is None:
                return
            for number in report.numbers:
                version = rows.version(report.connector_id, number)
                if version is not None and version.state is ConnectorState.DELETING:
                    rows.save_version(apply_version(version, event, now, failure))
                    if failure is None:
                        rows.remove_versions(report.connector_id, [number])
            if connector.state is not ConnectorState.DELETING:
                return
            if connector.current not in report.numbers:
                return
            after = apply_connector(connector, event, now, failure)
            rows.save(after)
            if not after.live:
                rows.remove_versions(report.connector_id, report.numbers)
                tx.forget_client_tokens(connector.account, connector.connector_id)

        await self._store.run(decide)

    async def _retag(
        self,
        account: str,
        identifier: str,
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> None:
        ref = self._unqualified(account, identifier)

        def decide(tx: Transaction) -> None:
            connector = _live(tx, ref)
            tags = change(connector.tags)
            _check_tags(tags)
            tx.connectors.save(replace(connector, tags=tags))

        await self._store.run(decide)

    def _unqualified(self, account: str, identifier: str) -> ConnectorRef:
        ref = ConnectorRef.parse(identifier, account, self._region)
        if ref.version is not None:
            raise InvalidParameter(
                f"The identifier must not name a version of the network connector: {identifier}"
            )
        return ref

    def _position(self, scope: str, marker: str | None) -> int | None:
        try:
            position = self._cursors.open(scope, marker)
        except ValidationError:
            raise InvalidParameter("Invalid Marker.") from None
        return None if position is None else int(position)

    def _check_versions(self, tx: Transaction, connector: Connector) -> None:
        if len(tx.connectors.versions(connector.connector_id)) >= self._limits.versions:
            raise QuotaExceeded(
                f"The connector has {self._limits.versions} versions, which is the most. Delete "
                "older ones first."
            )

    def _view(self, tx: Transaction, ref: ConnectorRef) -> ConnectorView:
        connector = _live(tx, ref)
        number = connector.current if ref.version is None else ref.version
        version = tx.connectors.version(connector.connector_id, number)
        if version is None:
            raise not_found(connector.version_arn(number), ref.account, ref.region)
        return ConnectorView(connector, version, qualified=ref.version is not None)


def _live(tx: Transaction, ref: ConnectorRef) -> Connector:
    connector = tx.connectors.find(ref.account, ref.key)
    if connector is None or not connector.live:
        raise not_found(ref.key, ref.account, ref.region)
    return connector


def _version(
    connector: Connector, number: int, config: VpcEgress, role: str, now: float
) -> ConnectorVersion:
    return ConnectorVersion(connector.account, connector.connector_id, number, config, role, now)


def _changed(before: VpcEgress, configuration: Mapping[str, Any] | None) -> VpcEgress:
    """A configuration replaces the one before as a whole; without one nothing changes."""
    if configuration is None:
        return before
    config = VpcEgress.from_request(configuration)
    if config.compute_types != before.compute_types:
        raise InvalidParameter("AssociatedComputeResourceTypes of a connector cannot be changed")
    return config


def _version_doomed(
    tx: Transaction, connector: Connector, number: int, now: float
) -> tuple[Deletion, tuple[int, ...]]:
    version = tx.connectors.version(connector.connector_id, number)
    if version is None and number > connector.newest:
        arn = connector.version_arn(number)
        raise not_found(arn, connector.account, connector.region)
    if version is None or connector.state in (ConnectorState.DELETING, ConnectorState.DELETED):
        return Deletion(connector, number, version), ()
    if number == connector.current:
        raise Conflict(
            f"Version {number} is the latest version of {connector.arn}. Delete the connector "
            "instead."
        )
    doomed = apply_version(version, ConnectorEvent.DELETE_REQUESTED, now)
    tx.connectors.save_version(doomed)
    return Deletion(connector, number, doomed), () if doomed is version else (number,)


def _check_tags(tags: Mapping[str, str]) -> None:
    if len(tags) > TAGS:
        raise ValidationError(f"A resource can have at most {TAGS} tags.")


def _with_token(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request as ``replay`` wants it: lambda-core spells the token with a capital letter."""
    said = {name: value for name, value in request.items() if name != "ClientToken"}
    return {**said, "clientToken": request.get("ClientToken")}
