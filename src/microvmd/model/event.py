"""Events: what happened to a thing, when, why and by whom, in the shape of EventBridge.

One is recorded for each change of a state, in the transaction that changes it. AWS publishes none
for MicroVMs as far as is known; the envelope is EventBridge's, so that its rules and tools fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from microvmd.model.identifiers import ImageArn
from microvmd.model.image import Build, Image, Version
from microvmd.model.microvm import MicroVm
from microvmd.model.vpc_connector import Connector

SOURCE = "microvmd"


class Kind(StrEnum):
    """``detail-type`` of an event."""

    MICROVM = "MicroVM State Change"
    IMAGE = "MicroVM Image State Change"
    VERSION = "MicroVM Image Version State Change"
    BUILD = "MicroVM Image Build State Change"
    """Of a version that is built again; the first build is told by its version."""
    CONNECTOR = "Network Connector State Change"


class ActorKind(StrEnum):
    """Who made it happen."""

    CALLER = "caller"
    """A call of the API; ``principal`` and ``request_id`` say whose and which."""
    REQUEST = "endpoint request"
    """A request to an endpoint, which resumes."""
    POLICY = "policy"
    """An idle policy or a maximum duration, by the clock."""
    NODE = "node"
    """What a node reported: a step that ended, an application that died."""
    SERVICE = "service"
    """The service itself: what a restart found."""


@dataclass(frozen=True, slots=True)
class Actor:
    """``principal`` is an ARN, ``request_id`` the ``x-amzn-requestid`` of the call."""

    kind: ActorKind
    principal: str | None = None
    request_id: str | None = None
    source_ip: str | None = None

    @property
    def members(self) -> dict[str, str]:
        """As the event's detail shows it."""
        shown = {
            "type": self.kind.value,
            "principal": self.principal,
            "requestId": self.request_id,
            "sourceIPAddress": self.source_ip,
        }
        return {name: value for name, value in shown.items() if value is not None}


SERVICE = Actor(ActorKind.SERVICE)


@dataclass(frozen=True, slots=True)
class StateChange:
    """``before`` is None for a thing that is new. ``resource`` is what one filters by: the id of
    a MicroVM, else a name."""

    kind: Kind
    account: str
    region: str
    resource: str
    arns: tuple[str, ...]
    before: str | None
    after: str
    reason: str | None = None
    detail: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A recorded change. ``sequence`` grows; ``time`` is wall-clock seconds."""

    sequence: int
    event_id: str
    time: float
    change: StateChange
    actor: Actor

    def envelope(self) -> dict[str, Any]:
        """As EventBridge would show it."""
        change = self.change
        moment = datetime.fromtimestamp(self.time, UTC)
        detail: dict[str, Any] = {
            **change.detail,
            "state": change.after,
            "previousState": change.before,
            "reason": change.reason,
            "actor": self.actor.members,
            "sequence": self.sequence,
        }
        return {
            "version": "0",
            "id": self.event_id,
            "detail-type": change.kind.value,
            "source": SOURCE,
            "account": change.account,
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "region": change.region,
            "resources": list(change.arns),
            "detail": {name: value for name, value in detail.items() if value is not None},
        }


def microvm_change(before: str | None, after: MicroVm) -> StateChange:
    """``before`` is the phase it had."""
    arn = ImageArn.parse(after.image_arn)
    own = f"arn:{arn.partition}:lambda:{arn.region}:{after.account}:microvm:{after.microvm_id}"
    return StateChange(
        Kind.MICROVM,
        after.account,
        arn.region,
        after.microvm_id,
        (own, after.image_arn),
        before,
        after.phase.value,
        after.state_reason,
        {
            "microvmId": after.microvm_id,
            "imageVersion": after.image_version,
            "generation": after.generation,
        },
    )


def image_change(before: str | None, after: Image) -> StateChange:
    """``before`` is the state it had."""
    arn = after.arn
    return StateChange(
        Kind.IMAGE,
        arn.account,
        arn.region,
        arn.name,
        (str(arn),),
        before,
        after.state.value,
        detail={"name": arn.name},
    )


def version_change(before: str | None, after: Version, image: ImageArn) -> StateChange:
    """``before`` is the state it had."""
    return StateChange(
        Kind.VERSION,
        after.account,
        image.region,
        after.image_name,
        (str(image),),
        before,
        after.state.value,
        after.build.reason,
        {
            "name": after.image_name,
            "imageVersion": str(after.number),
            "buildId": after.build.build_id,
            "status": after.status.value,
        },
    )


def build_change(
    before: str | None, after: Build, version: Version, image: ImageArn
) -> StateChange:
    """``before`` is the state it had."""
    return StateChange(
        Kind.BUILD,
        version.account,
        image.region,
        version.image_name,
        (str(image),),
        before,
        after.state.value,
        after.reason,
        {
            "name": version.image_name,
            "imageVersion": str(version.number),
            "buildId": after.build_id,
        },
    )


def connector_change(before: str | None, after: Connector) -> StateChange:
    """``before`` is the state it had."""
    failure = after.failure
    return StateChange(
        Kind.CONNECTOR,
        after.account,
        after.region,
        after.name,
        (after.arn,),
        before,
        after.state.value,
        None if failure is None else failure.reason,
        {"name": after.name, "id": after.connector_id},
    )
