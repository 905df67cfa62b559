"""MicroVM images, their versions and builds: states, transitions, and what a version says.

An image is a name with numbered versions. Each create or update makes one version, each version
one build (for the host's own processor). States and texts: reference, sections 1.2 and 1.3.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from microvmd.model.connector import resolve_egress
from microvmd.model.errors import Conflict, ValidationError
from microvmd.model.hooks import Hooks
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.size import AWS_SIZES, DEFAULT_MEMORY_MIB, Size, Sizes


class ImageState(StrEnum):
    CREATING = "CREATING"
    CREATED = "CREATED"
    CREATE_FAILED = "CREATE_FAILED"
    UPDATING = "UPDATING"
    UPDATED = "UPDATED"
    UPDATE_FAILED = "UPDATE_FAILED"
    DELETING = "DELETING"
    DELETE_FAILED = "DELETE_FAILED"
    DELETED = "DELETED"


class VersionState(StrEnum):
    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    DELETING = "DELETING"
    DELETED = "DELETED"
    DELETE_FAILED = "DELETE_FAILED"


class VersionStatus(StrEnum):
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


class BuildState(StrEnum):
    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"


class ImageEvent(StrEnum):
    """What can happen to an image as a whole."""

    UPDATE_REQUESTED = "update requested"
    VERSION_BUILT = "version built"
    VERSION_FAILED = "version failed"
    DELETE_REQUESTED = "delete requested"
    DELETE_FAILED = "delete failed"


class BuildEvent(StrEnum):
    """What a node reports of a build."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


VMM_TAG = "microvmd:vmm"
"""Tag of an image that says under which VMM its versions are built and run."""
VMMS = ("qemu", "firecracker")

MOST_TAGS = 50

_SETTLED = (
    ImageState.CREATED,
    ImageState.UPDATED,
    ImageState.CREATE_FAILED,
    ImageState.UPDATE_FAILED,
)

IMAGE_TRANSITIONS: Mapping[tuple[ImageState, ImageEvent], ImageState] = {
    **{(state, ImageEvent.UPDATE_REQUESTED): ImageState.UPDATING for state in _SETTLED},
    (ImageState.CREATING, ImageEvent.VERSION_BUILT): ImageState.CREATED,
    (ImageState.CREATING, ImageEvent.VERSION_FAILED): ImageState.CREATE_FAILED,
    (ImageState.UPDATING, ImageEvent.VERSION_BUILT): ImageState.UPDATED,
    (ImageState.UPDATING, ImageEvent.VERSION_FAILED): ImageState.UPDATE_FAILED,
    **{(state, ImageEvent.DELETE_REQUESTED): ImageState.DELETING for state in _SETTLED},
    (ImageState.DELETE_FAILED, ImageEvent.DELETE_REQUESTED): ImageState.DELETING,
    (ImageState.DELETING, ImageEvent.DELETE_REQUESTED): ImageState.DELETING,
    (ImageState.DELETING, ImageEvent.DELETE_FAILED): ImageState.DELETE_FAILED,
}

BUILD_TRANSITIONS: Mapping[tuple[BuildState, BuildEvent], BuildState] = {
    (BuildState.PENDING, BuildEvent.STARTED): BuildState.IN_PROGRESS,
    (BuildState.PENDING, BuildEvent.FAILED): BuildState.FAILED,
    (BuildState.IN_PROGRESS, BuildEvent.SUCCEEDED): BuildState.SUCCESSFUL,
    (BuildState.IN_PROGRESS, BuildEvent.FAILED): BuildState.FAILED,
}

_VERSION_OF_BUILD = {
    BuildState.PENDING: VersionState.PENDING,
    BuildState.IN_PROGRESS: VersionState.IN_PROGRESS,
    BuildState.SUCCESSFUL: VersionState.SUCCESSFUL,
    BuildState.FAILED: VersionState.FAILED,
}


@dataclass(frozen=True, slots=True)
class Logging:
    """Where application output goes; ``disabled`` wins."""

    disabled: bool = False
    group: str | None = None
    stream: str | None = None

    @classmethod
    def from_request(cls, request: Mapping[str, Any] | None) -> Self | None:
        if request is None:
            return None
        watch = request.get("cloudWatch") or {}
        return cls("disabled" in request, watch.get("logGroup"), watch.get("logStream"))


@dataclass(frozen=True, slots=True)
class VersionConfig:
    """What the caller asked of one version, defaults resolved. PUT semantics: nothing inherited."""

    base_image_arn: str
    build_role_arn: str
    code_artifact_uri: str
    base_image_version: str | None = None
    description: str | None = None
    logging: Logging | None = None
    egress: tuple[str, ...] = ()
    cpu_configurations: tuple[str, ...] = ()
    memory_mib: int = DEFAULT_MEMORY_MIB
    os_capabilities: tuple[str, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)
    hooks_given: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    kms_key: str | None = None

    @classmethod
    def from_request(
        cls, request: Mapping[str, Any], region: str, sizes: Sizes = AWS_SIZES
    ) -> Self:
        """Raise ValidationError for what no shape can say: sizes, hook rules, connectors."""
        resources = request.get("resources") or [{"minimumMemoryInMiB": DEFAULT_MEMORY_MIB}]
        memory_mib = int(resources[0]["minimumMemoryInMiB"])
        sizes.check(memory_mib, request["baseImageArn"])
        uri = (request.get("codeArtifact") or {}).get("uri")
        if not uri:
            raise ValidationError("codeArtifact must have a uri, as s3://bucket/key.")
        return cls(
            base_image_arn=request["baseImageArn"],
            build_role_arn=request["buildRoleArn"],
            code_artifact_uri=uri,
            base_image_version=request.get("baseImageVersion"),
            description=request.get("description"),
            logging=Logging.from_request(request.get("logging")),
            egress=resolve_egress(request.get("egressNetworkConnectors"), region),
            cpu_configurations=tuple(
                item["architecture"] for item in request.get("cpuConfigurations") or ()
            ),
            memory_mib=memory_mib,
            os_capabilities=tuple(request.get("additionalOsCapabilities") or ()),
            hooks=Hooks.from_request(request.get("hooks")),
            hooks_given=request.get("hooks") is not None,
            environment=dict(request.get("environmentVariables") or {}),
            kms_key=request.get("kmsKeyIdentifier"),
        )

    @property
    def size(self) -> Size:
        return Size.of(self.memory_mib)


@dataclass(frozen=True, slots=True)
class SnapshotSizes:
    """Bytes, as ``snapshotBuild`` reports them; None = that step was never reached."""

    memory: int | None = None
    code: int | None = None
    disk: int | None = None

    @property
    def restored(self) -> int:
        """What a run reads; the rootfs is shared and read as it is needed."""
        return (self.memory or 0) + (self.disk or 0)


@dataclass(frozen=True, slots=True)
class Build:
    """Making one version for one processor. ``build_id`` pins reports to one attempt."""

    build_id: str
    architecture: str
    chipset: str
    chipset_generation: str
    created_at: float
    state: BuildState = BuildState.PENDING
    reason: str | None = None
    sizes: SnapshotSizes | None = None
    ended_at: float | None = None
    interrupted: bool = False
    """Failed because the service or its node ended."""
    freed: bool = False
    """Its snapshot is no longer kept."""

    @property
    def in_flight(self) -> bool:
        return self.state in (BuildState.PENDING, BuildState.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable result of a create or update."""

    account: str
    image_name: str
    number: ImageVersion
    config: VersionConfig
    build: Build
    created_at: float
    updated_at: float
    state: VersionState = VersionState.PENDING
    status: VersionStatus = VersionStatus.INACTIVE
    grants: tuple[str, ...] = ()
    """Versions of the account's connectors that its build was given (``model.egress.grant_of``)."""
    rebuilds: tuple[Build, ...] = ()
    """Later builds of the same files for what the node has become since, the oldest first."""
    asked_at: float = 0.0
    """When it was made ACTIVE by a call: what failed before is forgiven (``model.rebuild``)."""
    chosen: str | None = None
    """The build whose snapshot fits the node, where that is not the newest one that was made."""

    @property
    def builds(self) -> tuple[Build, ...]:
        """The oldest first."""
        return (self.build, *self.rebuilds)

    @property
    def kept(self) -> tuple[Build, ...]:
        """Those that have a snapshot."""
        made = (one for one in self.builds if one.state is BuildState.SUCCESSFUL)
        return tuple(one for one in made if not one.freed)

    @property
    def current(self) -> Build:
        """Whose snapshot MicroVMs are started from."""
        found = next((one for one in self.kept if one.build_id == self.chosen), None)
        return found or (self.kept[-1] if self.kept else self.build)

    @property
    def snapshot(self) -> str:
        """That of ``current``."""
        return self.snapshot_of(self.current)

    def snapshot_of(self, build: Build) -> str:
        """What the snapshot of one of its builds is called: the id, and nothing for the first."""
        return "" if build.build_id == self.build.build_id else build.build_id

    @property
    def restored_bytes(self) -> int:
        """What a run of it reads."""
        return 0 if self.current.sizes is None else self.current.sizes.restored

    @property
    def rebuilding(self) -> bool:
        return any(one.in_flight for one in self.rebuilds)

    @property
    def runnable(self) -> bool:
        return self.state is VersionState.SUCCESSFUL and self.status is VersionStatus.ACTIVE


@dataclass(frozen=True, slots=True)
class Image:
    """A named template. Its versions are rows of their own."""

    arn: ImageArn
    state: ImageState
    created_at: float
    updated_at: float
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def account(self) -> str:
        return self.arn.account

    @property
    def name(self) -> str:
        return self.arn.name

    @property
    def vmm(self) -> str | None:
        """What its next version is built for; None is what the node has chosen."""
        return self.tags.get(VMM_TAG)


def check_image_tags(tags: Mapping[str, str]) -> None:
    """Raise ValidationError for more of them than AWS takes, or for a VMM that nobody knows."""
    if len(tags) > MOST_TAGS:
        raise ValidationError(f"A resource can have at most {MOST_TAGS} tags.")
    vmm = tags.get(VMM_TAG)
    if vmm is not None and vmm not in VMMS:
        raise ValidationError(
            f"The tag {VMM_TAG} names the VMM of an image, one of {', '.join(VMMS)}: not {vmm!r}."
        )


def apply_image(image: Image, event: ImageEvent, now: float) -> Image:
    """Raise the recorded refusal for what the table does not hold."""
    target = IMAGE_TRANSITIONS.get((image.state, event))
    if target is not None:
        return replace(image, state=target, updated_at=now)
    if event is ImageEvent.DELETE_REQUESTED:
        raise ValidationError("Cannot delete MicroVM image in its current state")
    raise Conflict(f"MicroVM Image is already in state: {image.state}")


def apply_build(
    version: Version,
    event: BuildEvent,
    now: float,
    *,
    reason: str | None = None,
    sizes: SnapshotSizes | None = None,
) -> Version | None:
    """The version after a build report; None for a report that no longer matters."""
    target = BUILD_TRANSITIONS.get((version.build.state, event))
    if target is None or version.state in (VersionState.DELETING, VersionState.DELETED):
        return None
    build = moved(version.build, target, now, reason, sizes)
    # A success activates by itself; the reason of a failure stays on the build (recorded).
    status = VersionStatus.ACTIVE if target is BuildState.SUCCESSFUL else version.status
    return replace(
        version, build=build, state=_VERSION_OF_BUILD[target], status=status, updated_at=now
    )


def moved(
    build: Build, state: BuildState, now: float, reason: str | None, sizes: SnapshotSizes | None
) -> Build:
    """A build in a state that a table of transitions gave it."""
    after = replace(build, state=state, reason=reason, sizes=sizes or build.sizes)
    return after if after.in_flight else replace(after, ended_at=now)


def latest_active(versions: Iterable[Version]) -> ImageVersion | None:
    return max((v.number for v in versions if v.runnable), default=None)


def latest_failed(versions: Iterable[Version]) -> ImageVersion | None:
    return max((v.number for v in versions if v.state is VersionState.FAILED), default=None)


def next_number(versions: Iterable[Version]) -> ImageVersion:
    """``1.0`` for the first; a number is never used twice, deleted versions included."""
    newest = max((v.number for v in versions), default=ImageVersion(0))
    return newest.next()


def echo_base_version(text: str | None) -> str | None:
    """``1`` is accepted and read back as ``1.0`` (recorded)."""
    return f"{text}.0" if text is not None and text.isdigit() else text
