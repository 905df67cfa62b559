"""Network connectors of an account: the wire side of ``control.connectors``.

Recorded: each operation has a member set of its own, and what is unset is left out, not null.
"""

from collections.abc import Mapping
from typing import Any

from microvmd.api.requests import RequestContext
from microvmd.control.connectors import Connectors, ConnectorView
from microvmd.model.vpc_connector import (
    Connector,
    ConnectorState,
    ConnectorVersion,
    VpcEgress,
)

Request = Mapping[str, Any]

VPC_EGRESS = "VPC_EGRESS"


class ConnectorHandlers:
    """One method for each operation on network connectors."""

    def __init__(self, connectors: Connectors) -> None:
        self._connectors = connectors

    async def create_network_connector(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        view = await self._connectors.create(context.account, request)
        return {
            **_names(view.connector),
            **_version(view.connector, view.version.number),
            **_config(view.version),
            "State": view.connector.state.value,
        }

    async def get_network_connector(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        view = await self._connectors.get(context.account, request["Identifier"])
        answer = {**_names(view.connector), **_config(view.version)}
        return answer | (_one_version(view) if view.qualified else _latest(view))

    async def list_network_connectors(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        page = await self._connectors.list_connectors(
            context.account,
            state=_state(request),
            max_items=request.get("MaxItems"),
            marker=request.get("Marker"),
        )
        items = [_summary(connector) for connector in page.items]
        return {"NetworkConnectors": items, "NextMarker": page.next_token}

    async def list_network_connector_versions(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        page = await self._connectors.list_versions(
            context.account,
            request["Identifier"],
            state=_state(request),
            max_items=request.get("MaxItems"),
            marker=request.get("Marker"),
        )
        items = [{**_names(view.connector), **_one_version(view)} for view in page.items]
        return {"NetworkConnectorVersions": items, "NextMarker": page.next_token}

    async def update_network_connector(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        view = await self._connectors.update(context.account, request)
        connector = view.connector
        return {
            **_names(connector),
            **_version(connector, view.version.number),
            **_config(view.version),
            "State": connector.state.value,
            "LastUpdateStatus": connector.update_status,
            "LastUpdateStatusReason": connector.update_reason,
            "LastModified": connector.modified_at,
        }

    async def delete_network_connector(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        """A connector or version that is gone still answers DELETING: the model calls a repeated
        delete a success and has no further state."""
        deletion = await self._connectors.delete(context.account, request["Identifier"])
        answer: dict[str, Any] = {**_names(deletion.connector), "State": ConnectorState.DELETING}
        if deletion.number is not None:
            answer |= _version(deletion.connector, deletion.number)
        if deletion.version is not None:
            answer |= _config(deletion.version)
        return answer


def _state(request: Request) -> ConnectorState | None:
    asked = request.get("State")
    return None if asked is None else ConnectorState(asked)


def _names(connector: Connector) -> dict[str, Any]:
    return {"Arn": connector.arn, "Name": connector.name, "Id": connector.connector_id}


def _version(connector: Connector, number: int) -> dict[str, Any]:
    return {"VersionArn": connector.version_arn(number), "Version": number}


def _one_version(view: ConnectorView) -> dict[str, Any]:
    """A version that was named has its own state and no latest version (the model)."""
    version = view.version
    return {
        **_version(view.connector, version.number),
        "State": version.state.value,
        "StateReason": None if version.failure is None else version.failure.reason,
        "StateReasonCode": None if version.failure is None else version.failure.code,
        "LastModified": version.modified_at,
    }


def _latest(view: ConnectorView) -> dict[str, Any]:
    connector = view.connector
    return {
        "Version": view.version.number,
        **_latest_version(connector),
        "State": connector.state.value,
        "StateReason": connector.state_reason,
        "StateReasonCode": None if connector.failure is None else connector.failure.code,
        "LastUpdateStatus": connector.update_status,
        "LastUpdateStatusReason": connector.update_reason,
        "LastUpdateStatusReasonCode": connector.update_code,
        "LastModified": connector.modified_at,
    }


def _latest_version(connector: Connector) -> dict[str, Any]:
    return {
        "LatestVersionArn": connector.version_arn(connector.current),
        "LatestVersion": connector.current,
    }


def _summary(connector: Connector) -> dict[str, Any]:
    return {
        **_names(connector),
        **_latest_version(connector),
        "Type": VPC_EGRESS,
        "State": connector.state.value,
        "LastModified": connector.modified_at,
    }


def _config(version: ConnectorVersion) -> dict[str, Any]:
    return {
        "Configuration": {"VpcEgressConfiguration": _vpc_egress(version.config)},
        "OperatorRole": version.operator_role,
    }


def _vpc_egress(config: VpcEgress) -> dict[str, Any]:
    elastic = None if config.elastic_ip is None else {"Type": config.elastic_ip}
    return {
        "SubnetIds": config.subnets,
        "SecurityGroupIds": config.security_groups,
        "NetworkProtocol": config.protocol,
        "AssociatedComputeResourceTypes": config.compute_types,
        "ElasticIpConfiguration": elastic,
    }
