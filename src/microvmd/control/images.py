"""Images, versions and builds: load, decide with the model, save, then tell the node."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any

from microvmd.control.admission import Admission
from microvmd.control.building import build_command, key_of, new_build
from microvmd.control.egress import ConnectorUse
from microvmd.control.lookups import (
    ImageView,
    image_named,
    version_at,
    version_named,
    view_named,
    view_of,
)
from microvmd.control.managed import ManagedImages
from microvmd.control.paging import DEFAULT_PAGE, Cursors, Page
from microvmd.control.replay import remember, replayed
from microvmd.control.roles import AssumableRoles
from microvmd.control.store import Store, Transaction
from microvmd.messages.node import (
    BuildFailed,
    BuildStarted,
    BuildSucceeded,
    DeleteVersion,
    Node,
    RetireVersion,
    VersionDeleted,
    VersionKey,
)
from microvmd.model import rebuild
from microvmd.model.capacity import NO_ROOM
from microvmd.model.egress import EgressMap
from microvmd.model.errors import Conflict, ValidationError
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.image import (
    BuildEvent,
    Image,
    ImageEvent,
    ImageState,
    SnapshotSizes,
    Version,
    VersionConfig,
    VersionState,
    VersionStatus,
    apply_build,
    apply_image,
    check_image_tags,
    next_number,
)
from microvmd.model.rebuild import apply_rebuild, given_up
from microvmd.model.size import AWS_SIZES, Sizes

BuildReport = BuildStarted | BuildSucceeded | BuildFailed
_GONE = (VersionState.DELETED, VersionState.DELETING)
FULL = f"INTERNAL_PLATFORM_ERROR: {NO_ROOM}"
INTERRUPTED = "INTERNAL_PLATFORM_ERROR: The build was interrupted by a restart. Build again."


class _Build(Enum):
    """What a call that makes a version means for its build."""

    REPLAYED = auto()
    BEGINS = auto()
    NO_ROOM = auto()


class Images:
    """All decisions about images. ``clock`` gives wall-clock seconds."""

    def __init__(
        self,
        store: Store,
        node: Node,
        cursors: Cursors,
        clock: Callable[[], float],
        managed: ManagedImages,
        sizes: Sizes = AWS_SIZES,
        networks: EgressMap | None = None,
        roles: AssumableRoles | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._store = store
        self._node = node
        self._cursors = cursors
        self._clock = clock
        self._region = managed.region
        self._managed = managed
        self._sizes = sizes
        self._use = ConnectorUse(managed.region, networks or EgressMap())
        self._roles = roles or AssumableRoles()
        self._admission = admission or Admission()

    @property
    def cursors(self) -> Cursors:
        """What seals positions in all lists that have to do with images."""
        return self._cursors

    def remap(self, networks: EgressMap) -> None:
        """What the operator's mapping is for builds from now on."""
        self._use.remap(networks)

    async def create(self, account: str, request: Mapping[str, Any]) -> tuple[ImageView, Version]:
        """CreateMicrovmImage: the image and its version 1.0, whose build begins."""
        config = self._config(request)
        check_image_tags(request.get("tags") or {})
        await self._roles.check_build(account, config.build_role_arn)
        arn = ImageArn("aws", self._region, account, request["name"])
        now = self._clock()

        def decide(tx: Transaction) -> tuple[ImageView, Version, _Build]:
            if replayed(tx, account, "CreateMicrovmImage", request) is not None:
                view = view_named(tx, account, arn)
                return view, version_named(tx, account, arn, "1.0"), _Build.REPLAYED
            if tx.image(account, arn.name) is not None:
                raise ValidationError(
                    f"A MicroVM image with the name '{arn.name}' already exists in this account"
                )
            self._admission.check_image(tx, account, config.memory_mib)
            build = self._build_of(tx, config)
            image = Image(arn, ImageState.CREATING, now, now, dict(request.get("tags") or {}))
            grants = self._use.pin(tx, account, config.egress)
            version = _new_version(image, ImageVersion(1), config, grants, now)
            tx.add_image(image)
            tx.add_version(version)
            remember(tx, account, "CreateMicrovmImage", request, str(arn), now)
            return ImageView(image, None, None), version, build

        view, version, build = await self._store.run(decide)
        await self._begin(build, view.image, version)
        return view, version

    async def update(self, account: str, request: Mapping[str, Any]) -> tuple[ImageView, Version]:
        """UpdateMicrovmImage: a further version; nothing is inherited from the one before."""
        arn = ImageArn.parse(request["imageIdentifier"])
        operation = f"UpdateMicrovmImage {arn.name}"
        config = self._config(request)
        await self._roles.check_build(account, config.build_role_arn)
        now = self._clock()

        def decide(tx: Transaction) -> tuple[ImageView, Version, _Build]:
            done = replayed(tx, account, operation, request)
            if done is not None:
                made = done.rsplit(" ", 1)[1]
                version = version_named(tx, account, arn, made)
                return view_named(tx, account, arn), version, _Build.REPLAYED
            image = apply_image(image_named(tx, account, arn), ImageEvent.UPDATE_REQUESTED, now)
            self._admission.check_version(tx, account, arn.name, config.memory_mib)
            build = self._build_of(tx, config)
            number = next_number(tx.versions(account, arn.name))
            grants = self._use.pin(tx, account, config.egress)
            version = _new_version(image, number, config, grants, now)
            tx.save_image(image)
            tx.add_version(version)
            remember(tx, account, operation, request, f"{arn} {version.number}", now)
            return view_named(tx, account, arn), version, build

        view, version, build = await self._store.run(decide)
        await self._begin(build, view.image, version)
        return view, version

    async def get(self, account: str, identifier: str) -> ImageView:
        arn = ImageArn.parse(identifier)
        return await self._store.run(lambda tx: view_named(tx, account, arn))

    async def list_images(
        self,
        account: str,
        *,
        name_filter: str | None = None,
        max_results: int | None = None,
        next_token: str | None = None,
    ) -> Page[ImageView]:
        """By name. The filter comes after the cut, so pages may be empty (recorded)."""
        limit = max_results or DEFAULT_PAGE
        after = self._cursors.open(f"images {account}", next_token)

        def read(tx: Transaction) -> tuple[list[ImageView], str | None]:
            found = tx.images(account, after=None if after is None else str(after), limit=limit + 1)
            more = found[limit - 1].name if len(found) > limit else None
            return [view_of(tx, image) for image in found[:limit]], more

        views, more = await self._store.run(read)
        token = None if more is None else self._cursors.seal(f"images {account}", more)
        kept = [view for view in views if name_filter is None or name_filter in view.image.name]
        return Page(kept, token)

    async def delete(self, account: str, identifier: str) -> Image:
        """Begins; the image is gone when the node has removed every version."""
        arn = ImageArn.parse(identifier)
        now = self._clock()

        def decide(tx: Transaction) -> tuple[Image, list[Version]]:
            image = apply_image(image_named(tx, account, arn), ImageEvent.DELETE_REQUESTED, now)
            if any(vm.image_arn == str(arn) for vm in tx.microvms_not_terminated()):
                raise ValidationError("Cannot delete microvm image with running microvms.")
            doomed = [
                _doomed(version, now)
                for version in tx.versions(account, arn.name)
                if version.state not in _GONE
            ]
            tx.save_image(image)
            for version in doomed:
                tx.save_version(version)
            return image, doomed

        image, doomed = await self._store.run(decide)
        for version in doomed:
            await self._node.send(DeleteVersion(key_of(version)))
        return image

    async def version(self, account: str, identifier: str, number: str) -> Version:
        arn = ImageArn.parse(identifier)
        return await self._store.run(lambda tx: version_named(tx, account, arn, number))

    async def versions(
        self,
        account: str,
        identifier: str,
        *,
        max_results: int | None = None,
        next_token: str | None = None,
    ) -> Page[Version]:
        """Newest first."""
        arn = ImageArn.parse(identifier)
        scope = f"versions {account} {arn}"
        start = int(self._cursors.open(scope, next_token) or 0)

        def read(tx: Transaction) -> list[Version]:
            image_named(tx, account, arn)
            return [v for v in tx.versions(account, arn.name) if v.state != VersionState.DELETED]

        found = await self._store.run(read)
        limit = max_results or DEFAULT_PAGE
        if start:
            found = [version for version in found if version.number.major < start]
        page = found[:limit]
        more = len(found) > limit
        return Page(page, self._cursors.seal(scope, page[-1].number.major) if more else None)

    async def set_status(
        self, account: str, identifier: str, number: str, status: VersionStatus
    ) -> Version:
        """UpdateMicrovmImageVersion: ACTIVE or INACTIVE; running MicroVMs go on."""
        arn = ImageArn.parse(identifier)

        def decide(tx: Transaction) -> Version:
            version = version_named(tx, account, arn, number)
            image = image_named(tx, account, arn)
            if image.state in (ImageState.UPDATING, ImageState.CREATING, ImageState.DELETING):
                raise Conflict(f"MicroVM Image is already in state: {image.state}")
            if status is VersionStatus.ACTIVE and version.state is not VersionState.SUCCESSFUL:
                raise ValidationError(
                    f"Version {version.number} is {version.state}: only a SUCCESSFUL version can "
                    "be ACTIVE."
                )
            now = self._clock()
            asked = now if status is VersionStatus.ACTIVE else version.asked_at
            changed = replace(version, status=status, updated_at=now, asked_at=asked)
            tx.save_version(changed)
            return changed

        changed = await self._store.run(decide)
        if changed.status is VersionStatus.INACTIVE:
            await self._node.send(RetireVersion(key_of(changed)))
        return changed

    async def delete_version(self, account: str, identifier: str, number: str) -> Version:
        """Refused for the last version and while MicroVMs of it live."""
        arn = ImageArn.parse(identifier)

        def decide(tx: Transaction) -> tuple[Version, bool]:
            version = version_named(tx, account, arn, number, deleted=True)
            if version.state in _GONE:
                return version, False
            _check_version_deletable(tx, version, arn)
            doomed = _doomed(version, self._clock())
            tx.save_version(doomed)
            return doomed, True

        version, begun = await self._store.run(decide)
        if begun:
            await self._node.send(DeleteVersion(key_of(version)))
        return version

    async def tags(self, account: str, identifier: str) -> Mapping[str, str]:
        return (await self.get(account, identifier)).image.tags

    async def set_tags(self, account: str, identifier: str, tags: Mapping[str, str]) -> None:
        await self._retag(account, identifier, lambda old: {**old, **tags})

    async def remove_tags(self, account: str, identifier: str, keys: Sequence[str]) -> None:
        await self._retag(
            account, identifier, lambda old: {k: v for k, v in old.items() if k not in keys}
        )

    async def _retag(
        self,
        account: str,
        identifier: str,
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> None:
        arn = ImageArn.parse(identifier)

        def decide(tx: Transaction) -> None:
            image = image_named(tx, account, arn)
            tags = change(image.tags)
            check_image_tags(tags)
            tx.save_image(replace(image, tags=tags))

        await self._store.run(decide)

    async def report(self, report: BuildReport) -> None:
        """A build moved on; a success or failure settles the image too."""
        now = self._clock()
        event, reason, sizes = _told(report)

        def decide(tx: Transaction) -> None:
            key = report.version
            version = version_at(tx, key)
            if version is None:
                return
            if version.build.build_id == report.build_id:
                moved = apply_build(version, event, now, reason=reason, sizes=sizes)
            else:
                moved = apply_rebuild(
                    version, report.build_id, event, now, reason=reason, sizes=sizes
                )
            if moved is not None:
                tx.save_version(moved)
                _settle_image(tx, moved, now)

        await self._store.run(decide)

    async def report_deleted(self, report: VersionDeleted) -> None:
        """The files of a version are gone; with the last one of a DELETING image it is gone too."""
        key, now = report.version, self._clock()

        def decide(tx: Transaction) -> None:
            version = version_at(tx, key)
            image = tx.image(key.account, key.image_name)
            if version is None or image is None:
                return
            state = VersionState.DELETED if report.error is None else VersionState.DELETE_FAILED
            tx.save_version(replace(version, state=state, updated_at=now))
            if image.state is not ImageState.DELETING:
                return
            if report.error is not None:
                tx.save_image(apply_image(image, ImageEvent.DELETE_FAILED, now))
            elif all(v.state is VersionState.DELETED for v in tx.versions(*_pair(key))):
                tx.remove_image(key.account, key.image_name)
                tx.forget_client_tokens(key.account, str(image.arn))

        await self._store.run(decide)

    async def settle_after_restart(self) -> list[VersionKey]:
        """Builds in flight become FAILED; deletions go on. Returns the versions that have files."""
        now = self._clock()

        def decide(tx: Transaction) -> tuple[list[VersionKey], list[VersionKey]]:
            for version in tx.versions_in(VersionState.PENDING, VersionState.IN_PROGRESS):
                failed = apply_build(version, BuildEvent.FAILED, now, reason=INTERRUPTED)
                if failed is not None:
                    tx.save_version(failed)
                    _settle_image(tx, failed, now)
            kept = tx.versions_in(VersionState.SUCCESSFUL)
            for version in kept:
                if version.rebuilding:
                    tx.save_version(given_up(version, now, rebuild.INTERRUPTED, interrupted=True))
            doomed = tx.versions_in(VersionState.DELETING)
            return [key_of(v) for v in kept], [key_of(v) for v in doomed]

        kept, doomed = await self._store.run(decide)
        for key in doomed:
            await self._node.send(DeleteVersion(key))
        return kept

    def _config(self, request: Mapping[str, Any]) -> VersionConfig:
        config = VersionConfig.from_request(request, self._region, self._sizes)
        base = self._managed.resolve(config.base_image_arn, config.base_image_version)
        return replace(config, base_image_version=base)

    def _build_of(self, tx: Transaction, config: VersionConfig) -> _Build:
        """Asked before the version is one of those that are counted."""
        room = self._admission.has_room_to_build(tx, config.memory_mib)
        return _Build.BEGINS if room else _Build.NO_ROOM

    async def _begin(self, build: _Build, image: Image, version: Version) -> None:
        if build is _Build.BEGINS:
            command = await self._store.run(
                lambda tx: build_command(tx, self._use, image, version, version.build)
            )
            await self._node.send(command)
        elif build is _Build.NO_ROOM:
            failed = BuildFailed(key_of(version), version.build.build_id, FULL)
            await self.report(failed)


def _new_version(
    image: Image,
    number: ImageVersion,
    config: VersionConfig,
    grants: tuple[str, ...],
    now: float,
) -> Version:
    build = new_build(now)
    return Version(image.account, image.name, number, config, build, now, now, grants=grants)


def _doomed(version: Version, now: float) -> Version:
    """One that the node is told to remove, whatever is being made for it."""
    return replace(given_up(version, now), state=VersionState.DELETING, updated_at=now)


def _told(report: BuildReport) -> tuple[BuildEvent, str | None, SnapshotSizes | None]:
    if isinstance(report, BuildStarted):
        return BuildEvent.STARTED, None, None
    if isinstance(report, BuildSucceeded):
        return BuildEvent.SUCCEEDED, None, report.sizes
    return BuildEvent.FAILED, report.reason, report.sizes


def _settle_image(tx: Transaction, version: Version, now: float) -> None:
    image = tx.image(version.account, version.image_name)
    if image is None or image.state not in (ImageState.CREATING, ImageState.UPDATING):
        return
    if version.state is VersionState.SUCCESSFUL:
        tx.save_image(apply_image(image, ImageEvent.VERSION_BUILT, now))
    elif version.state is VersionState.FAILED:
        tx.save_image(apply_image(image, ImageEvent.VERSION_FAILED, now))


def _check_version_deletable(tx: Transaction, version: Version, arn: ImageArn) -> None:
    others = [
        other
        for other in tx.versions(version.account, version.image_name)
        if other.number != version.number and other.state not in _GONE
    ]
    if not others:
        raise Conflict(
            f"Version {version.number} is the last version of the image. Delete the image instead."
        )
    if version.state in (VersionState.PENDING, VersionState.IN_PROGRESS):
        raise Conflict(f"Version {version.number} is being built. Delete it when it has ended.")
    if any(
        vm.image_arn == str(arn) and vm.image_version == str(version.number)
        for vm in tx.microvms_not_terminated()
    ):
        raise Conflict("Cannot delete microvm image version with running microvms.")


def _pair(key: VersionKey) -> tuple[str, str]:
    return key.account, key.image_name
