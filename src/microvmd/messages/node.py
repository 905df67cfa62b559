"""Commands to a node and its reports.

A command names the generation that it was decided for; a report names the generation it speaks of.
The control plane drops reports of an older generation (``model.microvm.apply``), the node drops
commands for one it does not hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from microvmd.model.egress import NOTHING, Egress
from microvmd.model.hooks import Hooks
from microvmd.model.image import SnapshotSizes, VersionConfig
from microvmd.model.microvm import Phase
from microvmd.model.size import Size

BUILD_MARK = "@"


@dataclass(frozen=True, slots=True)
class VersionKey:
    """Which image version: names its files on the node too."""

    account: str
    image_name: str
    number: str
    build: str = ""
    """Id of the build whose snapshot is meant; empty is the version's first."""

    @property
    def place(self) -> str:
        """Of its files among those of its image."""
        return f"{self.number}{BUILD_MARK}{self.build}" if self.build else self.number

    @classmethod
    def at(cls, account: str, image_name: str, place: str) -> "VersionKey":
        """By ``place``."""
        number, _, build = place.partition(BUILD_MARK)
        return cls(account, image_name, number, build)

    def is_of(self, version: "VersionKey") -> bool:
        """One of the snapshots of this version."""
        return replace(self, build="") == replace(version, build="")

    def __str__(self) -> str:
        return f"{self.account}/{self.image_name}/{self.place}"


@dataclass(frozen=True, slots=True)
class LogTarget:
    """Group and stream of a log in the node's own store, which always gets it."""

    group: str
    stream: str


@dataclass(frozen=True, slots=True)
class LogDelivery:
    """Where CloudWatch Logs gets a log too, and the role whose rights that takes."""

    group: str
    stream: str
    role_arn: str


@dataclass(frozen=True, slots=True)
class Cause:
    """What set a command in motion, for logs and traces: the ``x-amzn-requestid`` of a call, and
    the span that waits for the outcome (a ``traceparent`` of W3C Trace Context)."""

    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class MicrovmSpec:
    """What a node must know to run or resume one MicroVM."""

    microvm_id: str
    generation: int
    version: VersionKey
    image_arn: str
    size: Size
    hooks: Hooks
    log: LogTarget
    run_hook_payload: str | None = None
    egress: Egress = NOTHING
    execution_role_arn: str | None = None
    """Whose credentials the guest gets."""
    kms_key: str | None = None
    """What its suspend snapshots are encrypted with: its own key, else that of its image."""
    delivery: LogDelivery | None = None
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class StartMicrovm:
    """Restore the image snapshot and call /run."""

    spec: MicrovmSpec


@dataclass(frozen=True, slots=True)
class ResumeMicrovm:
    """Restore the suspend snapshot and call /resume."""

    spec: MicrovmSpec


@dataclass(frozen=True, slots=True)
class SuspendMicrovm:
    """Call /suspend, store the suspend snapshot, end the VMM."""

    microvm_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class TerminateMicrovm:
    """Call /terminate if it runs, end the VMM, remove its files."""

    microvm_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class BuildVersion:
    """Make one image version from its code artifact, or its snapshot anew from what is kept."""

    version: VersionKey
    build_id: str
    image_arn: str
    config: VersionConfig
    log: LogTarget
    egress: Egress = NOTHING
    """What the Dockerfile's steps and the application may reach while it is built."""
    delivery: LogDelivery | None = None
    vmm: str | None = None
    """Which VMM the image is for; None is the node's own."""
    source: VersionKey | None = None
    """The snapshot whose root file system and configuration are used instead of the artifact."""


@dataclass(frozen=True, slots=True)
class DeleteVersion:
    """Remove the files of an image version, all snapshots of it; one that is being made ends."""

    version: VersionKey


@dataclass(frozen=True, slots=True)
class RetireVersion:
    """No further MicroVMs of an image version are run for now: nothing need wait for one. There is
    no report of it."""

    version: VersionKey


@dataclass(frozen=True, slots=True)
class FreeSnapshot:
    """Remove the snapshot of one build, which nothing needs any more. There is no report of it:
    what cannot be removed now is at the next start of the node."""

    version: VersionKey


@dataclass(frozen=True, slots=True)
class AdoptMicrovm:
    """Take over a MicroVM that an earlier process of this node left in ``phase``.

    PENDING is begun anew instead: nobody was let in yet.
    """

    spec: MicrovmSpec
    phase: Phase


@dataclass(frozen=True, slots=True)
class ProvisionConnector:
    """Find out whether this node can keep a guest to what a version of a connector opens."""

    connector_id: str
    number: int
    egress: Egress


@dataclass(frozen=True, slots=True)
class RevokeConnector:
    """Take what these versions of a connector opened from every guest, now and for good."""

    connector_id: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChangeEgress:
    """Keep a MicroVM of this node to something else from now on, open connections included."""

    microvm_id: str
    generation: int
    egress: Egress


Command = (
    StartMicrovm
    | ResumeMicrovm
    | SuspendMicrovm
    | TerminateMicrovm
    | BuildVersion
    | DeleteVersion
    | RetireVersion
    | FreeSnapshot
    | AdoptMicrovm
    | ProvisionConnector
    | RevokeConnector
    | ChangeEgress
)


@dataclass(frozen=True, slots=True)
class Started:
    """Runs (or was adopted) and takes requests at ``edge_address``; ``timings`` in ms by step.

    ``offsets`` says how many ms after ``begun`` (seconds since the epoch) each step began.
    """

    microvm_id: str
    generation: int
    edge_address: str
    timings: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    begun: float = 0.0
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Suspended:
    """The suspend snapshot is durable and the VMM is gone; ``stored_bytes`` is what it takes."""

    microvm_id: str
    generation: int
    timings: Mapping[str, float] = field(default_factory=dict)
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SuspendFailed:
    """Rolled back: the MicroVM goes on."""

    microvm_id: str
    generation: int
    reason: str
    edge_address: str


@dataclass(frozen=True, slots=True)
class ResumeFailed:
    """Not resumed; its suspend snapshot is intact."""

    microvm_id: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """Ended without being asked: hook failed, application ended, VMM lost."""

    microvm_id: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """Not started: this node cannot restore the snapshot of the image. Nothing of it is left.

    ``fits`` is another snapshot of the version that is here and could be restored, as
    ``VersionKey.build`` names it."""

    microvm_id: str
    generation: int
    reason: str
    fits: str | None = None


@dataclass(frozen=True, slots=True)
class Terminated:
    """Ended as asked; nothing of it is left."""

    microvm_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class BuildStarted:
    version: VersionKey
    build_id: str


@dataclass(frozen=True, slots=True)
class BuildSucceeded:
    version: VersionKey
    build_id: str
    sizes: SnapshotSizes


@dataclass(frozen=True, slots=True)
class BuildFailed:
    """``reason`` is what the caller reads as the build's stateReason."""

    version: VersionKey
    build_id: str
    reason: str
    sizes: SnapshotSizes | None = None


@dataclass(frozen=True, slots=True)
class VersionDeleted:
    """``error`` is None when nothing of it is left."""

    version: VersionKey
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectorProvisioned:
    """``error`` is None when guests may be given it."""

    connector_id: str
    number: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectorRevoked:
    """``error`` is None when no guest has it any more."""

    connector_id: str
    numbers: tuple[int, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class EgressChanged:
    """``error`` is None when the MicroVM keeps to it, or is not there any more."""

    microvm_id: str
    generation: int
    error: str | None = None


Report = (
    Started
    | Suspended
    | SuspendFailed
    | ResumeFailed
    | Died
    | Unfit
    | Terminated
    | BuildStarted
    | BuildSucceeded
    | BuildFailed
    | VersionDeleted
    | ConnectorProvisioned
    | ConnectorRevoked
    | EgressChanged
)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the node must know at start: whatever is not named is swept."""

    microvms: frozenset[str]
    versions: frozenset[VersionKey]


class Node(Protocol):
    """The control plane's view of a node."""

    async def send(self, command: Command) -> None:
        """Hand over a command; its outcome comes as a report."""
