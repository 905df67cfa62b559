"""Network connectors of an account: states, versions, and how a request names one.

A connector (always VPC_EGRESS) has numbered, immutable versions; one of them is in force. Connector
and versions go through the same states, so one table serves both. Texts: recorded answers, section
1; the rest is the model lambda-core and the choices page.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from microvmd.model.errors import Conflict, InvalidParameter, NotFound

_ARN = re.compile(
    r"arn:aws[a-zA-Z-]*:lambda:(?P<region>[a-z0-9-]+):(?P<account>\d{12})"
    r":network-connector:(?P<name>[a-zA-Z0-9_-]+)(:(?P<version>[1-9][0-9]{0,17}))?"
)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
FIRST_REASON = "Initial creation"
NO_CHANGE = "No configuration changes detected"
MICROVM = "MicroVm"


class ConnectorState(StrEnum):
    """The API's states, and DELETED, which is ours: remembered so that a second delete succeeds.

    Nothing here makes a connector INACTIVE: there are no interfaces that could be taken away.
    """

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    FAILED = "FAILED"
    DELETING = "DELETING"
    DELETE_FAILED = "DELETE_FAILED"
    DELETED = "DELETED"


class ConnectorEvent(StrEnum):
    """What can happen to a connector or to one version of it."""

    PROVISIONED = "provisioned"
    PROVISION_FAILED = "provision failed"
    UPDATE_REQUESTED = "update requested"
    DELETE_REQUESTED = "delete requested"
    REMOVED = "removed"
    REMOVE_FAILED = "remove failed"


class UpdateStatus(StrEnum):
    """How the last update of a connector went."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    IN_PROGRESS = "InProgress"


class FailureCode(StrEnum):
    """The codes of the API that a connector can fail with here."""

    INVALID_SUBNET = "InvalidSubnet"
    INVALID_SECURITY_GROUP = "InvalidSecurityGroup"
    INTERNAL_ERROR = "InternalError"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed: a code for programs, a text for people."""

    code: FailureCode
    reason: str


_S, _E = ConnectorState, ConnectorEvent

TRANSITIONS: Mapping[tuple[ConnectorState, ConnectorEvent], ConnectorState] = {
    (_S.PENDING, _E.PROVISIONED): _S.ACTIVE,
    (_S.PENDING, _E.PROVISION_FAILED): _S.FAILED,
    (_S.ACTIVE, _E.UPDATE_REQUESTED): _S.ACTIVE,
    (_S.ACTIVE, _E.DELETE_REQUESTED): _S.DELETING,
    (_S.FAILED, _E.DELETE_REQUESTED): _S.DELETING,
    (_S.DELETE_FAILED, _E.DELETE_REQUESTED): _S.DELETING,
    (_S.DELETING, _E.DELETE_REQUESTED): _S.DELETING,
    (_S.DELETED, _E.DELETE_REQUESTED): _S.DELETED,
    (_S.DELETING, _E.REMOVED): _S.DELETED,
    (_S.DELETING, _E.REMOVE_FAILED): _S.DELETE_FAILED,
}
_REQUESTS = (ConnectorEvent.UPDATE_REQUESTED, ConnectorEvent.DELETE_REQUESTED)


@dataclass(frozen=True, slots=True)
class VpcEgress:
    """What a version says; ids are free strings of the model's patterns, as the operator maps."""

    subnets: tuple[str, ...]
    protocol: str
    compute_types: tuple[str, ...]
    security_groups: tuple[str, ...] | None = None
    elastic_ip: str | None = None

    @classmethod
    def from_request(cls, configuration: Mapping[str, Any] | None) -> Self:
        """Raise InvalidParameter for members that the model calls optional and the service needs
        (recorded)."""
        given = (configuration or {}).get("VpcEgressConfiguration")
        if given is None:
            raise InvalidParameter("Configuration must specify VpcEgressConfiguration")
        for name in ("SubnetIds", "NetworkProtocol", "AssociatedComputeResourceTypes"):
            if not given.get(name):
                raise InvalidParameter(f"{name} cannot be null or empty")
        groups = given.get("SecurityGroupIds")
        return cls(
            subnets=tuple(given["SubnetIds"]),
            protocol=given["NetworkProtocol"],
            compute_types=tuple(given["AssociatedComputeResourceTypes"]),
            security_groups=None if groups is None else tuple(groups),
            elastic_ip=(given.get("ElasticIpConfiguration") or {}).get("Type"),
        )

    def same_as(self, other: "VpcEgress") -> bool:
        """Whether nothing would change; subnets and groups are sets."""
        return self._parts() == other._parts()

    def _parts(self) -> tuple[object, ...]:
        groups = frozenset(self.security_groups or ())
        elastic = None if self.elastic_ip == "None" else self.elastic_ip
        return frozenset(self.subnets), groups, self.protocol, self.compute_types, elastic


@dataclass(frozen=True, slots=True)
class ConnectorVersion:
    """One immutable configuration. Times are wall-clock seconds."""

    account: str
    connector_id: str
    number: int
    config: VpcEgress
    operator_role: str
    modified_at: float
    state: ConnectorState = ConnectorState.PENDING
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ConnectorLimits:
    """Most connectors of an account, most versions of a connector."""

    connectors: int = 100
    versions: int = 100


@dataclass(frozen=True, slots=True)
class Connector:
    """``current`` is the number of the version in force, ``newest`` the last number given out."""

    account: str
    region: str
    connector_id: str
    name: str
    created_at: float
    modified_at: float
    state: ConnectorState = ConnectorState.PENDING
    failure: Failure | None = None
    current: int = 1
    newest: int = 1
    update_status: UpdateStatus | None = None
    update_reason: str | None = None
    update_code: FailureCode | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return f"{arn_prefix(self.account, self.region)}{self.connector_id}"

    def version_arn(self, number: int) -> str:
        return f"{self.arn}:{number}"

    @property
    def live(self) -> bool:
        return self.state is not ConnectorState.DELETED

    @property
    def state_reason(self) -> str | None:
        """Recorded: a new connector says that it is one, also when it is ACTIVE."""
        if self.failure is not None:
            return self.failure.reason
        first = self.state in (ConnectorState.PENDING, ConnectorState.ACTIVE)
        return FIRST_REASON if first else None


@dataclass(frozen=True, slots=True)
class ConnectorRef:
    """What a request means by an identifier: an id or a name, and a version if it is qualified."""

    account: str
    region: str
    key: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str, account: str, region: str) -> Self:
        """Raise NotFound for what names no connector of this account and region."""
        found = _ARN.fullmatch(text)
        if found is None:
            if _NAME.fullmatch(text) is None:
                raise not_found(text, account, region)
            return cls(account, region, text)
        if (found["account"], found["region"]) != (account, region):
            raise not_found(text, account, region)
        number = found["version"]
        return cls(account, region, found["name"], None if number is None else int(number))


def arn_prefix(account: str, region: str) -> str:
    return f"arn:aws:lambda:{region}:{account}:network-connector:"


def not_found(identifier: str, account: str, region: str) -> NotFound:
    """Recorded: the ARN that the service makes of whatever identifier arrived."""
    is_arn = identifier.startswith("arn:")
    arn = identifier if is_arn else f"{arn_prefix(account, region)}{identifier}"
    return NotFound(f"Network connector not found for: {arn}")


def check_name(name: str) -> None:
    """The model's pattern of a name takes ARNs too, which a new connector cannot be called."""
    if _NAME.fullmatch(name) is None:
        raise InvalidParameter(f"Name must be a plain name, not an ARN: {name}")


def apply_connector(
    connector: Connector, event: ConnectorEvent, now: float, failure: Failure | None = None
) -> Connector:
    """The connector after ``event``. A report that the table does not hold changes nothing, a call
    raises Conflict."""
    target = TRANSITIONS.get((connector.state, event))
    if event in _REQUESTS and (target is None or _updating(connector, event)):
        raise _refusal(connector, event)
    if target is None or target is connector.state:
        return connector
    return replace(connector, state=target, failure=failure, modified_at=now)


def apply_version(
    version: ConnectorVersion, event: ConnectorEvent, now: float, failure: Failure | None = None
) -> ConnectorVersion:
    """The version after ``event``; a call that the table does not hold raises Conflict."""
    target = TRANSITIONS.get((version.state, event))
    if target is None and event in _REQUESTS:
        raise Conflict(f"Version {version.number} of the connector is {version.state}.")
    if target is None or target is version.state:
        return version
    return replace(version, state=target, failure=failure, modified_at=now)


def update_begun(connector: Connector, now: float) -> Connector:
    """A further version is being made; the one in force goes on."""
    return replace(
        connector,
        newest=connector.newest + 1,
        update_status=UpdateStatus.IN_PROGRESS,
        update_reason=None,
        update_code=None,
        modified_at=now,
    )


def update_settled(
    connector: Connector, number: int, failure: Failure | None, now: float
) -> Connector:
    """The outcome of the update that makes version ``number``; of any other it changes nothing."""
    if connector.update_status is not UpdateStatus.IN_PROGRESS or number != connector.newest:
        return connector
    if failure is None:
        return replace(
            connector, current=number, update_status=UpdateStatus.SUCCESSFUL, modified_at=now
        )
    return replace(
        connector,
        update_status=UpdateStatus.FAILED,
        update_reason=failure.reason,
        update_code=failure.code,
        modified_at=now,
    )


def update_without_change(connector: Connector) -> Connector:
    """Recorded: such an update succeeds at once, says so, and makes no version."""
    return replace(
        connector,
        update_status=UpdateStatus.SUCCESSFUL,
        update_reason=NO_CHANGE,
        update_code=None,
    )


def _updating(connector: Connector, event: ConnectorEvent) -> bool:
    in_progress = connector.update_status is UpdateStatus.IN_PROGRESS
    return event is ConnectorEvent.UPDATE_REQUESTED and in_progress


def _refusal(connector: Connector, event: ConnectorEvent) -> Conflict:
    if _updating(connector, event):
        return Conflict(f"An update of network connector {connector.arn} is in progress.")
    verb = "updated" if event is ConnectorEvent.UPDATE_REQUESTED else "deleted"
    return Conflict(
        f"Network connector {connector.arn} is in {connector.state} state and cannot be {verb}."
    )
