"""Images, versions, builds and managed images: the wire side of ``control.images``.

Recorded: the service has a projection for each use and the model describes none of them. Create
and Update answer with the whole version, Get with the image alone; ``tags`` is null on Create and
``{}`` on Get; some members are in no model at all.
"""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from microvmd.api.requests import RequestContext
from microvmd.control.images import Images
from microvmd.control.lookups import ImageView
from microvmd.control.managed import MANAGED_VERSIONS, ManagedImages, ManagedVersion
from microvmd.control.paging import DEFAULT_PAGE, Page
from microvmd.model.errors import NotFound, ValidationError
from microvmd.model.hooks import IMAGE_HOOKS, MICROVM_HOOKS, HookName, Hooks
from microvmd.model.identifiers import ImageArn
from microvmd.model.image import (
    Build,
    ImageState,
    Logging,
    SnapshotSizes,
    Version,
    VersionConfig,
    VersionStatus,
    echo_base_version,
)

Request = Mapping[str, Any]

_ID_NAMESPACE = uuid.UUID("6a0c2a8e-6c5e-5e3a-9a55-0d6f3c1b7e42")


class ImageHandlers:
    """One method for each operation on images."""

    def __init__(self, images: Images, managed: ManagedImages) -> None:
        self._images = images
        self._managed = managed

    async def create_microvm_image(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        view, version = await self._images.create(context.account, request)
        return _detail(view, version)

    async def update_microvm_image(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        view, version = await self._images.update(context.account, request)
        return _detail(view, version)

    async def get_microvm_image(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        view = await self._images.get(context.account, request["imageIdentifier"])
        return {
            **_summary(view),
            "tags": dict(view.image.tags),
            "updatedAt": view.image.updated_at,
        }

    async def list_microvm_images(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        page = await self._images.list_images(
            context.account,
            name_filter=request.get("nameFilter"),
            max_results=request.get("maxResults"),
            next_token=request.get("nextToken"),
        )
        return {"items": [_summary(view) for view in page.items], "nextToken": page.next_token}

    async def delete_microvm_image(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        """The model calls it idempotent: an image that is gone answers DELETED."""
        identifier = request["imageIdentifier"]
        try:
            image = await self._images.delete(context.account, identifier)
        except NotFound:
            if ImageArn.parse(identifier).account != context.account:
                raise
            return {"imageIdentifier": identifier, "state": ImageState.DELETED.value}
        return {"imageIdentifier": str(image.arn), "state": image.state.value}

    async def get_microvm_image_version(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        return _version(await self._find_version(context, request), context.region)

    async def list_microvm_image_versions(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        page: Page[Version] = await self._images.versions(
            context.account,
            request["imageIdentifier"],
            max_results=request.get("maxResults"),
            next_token=request.get("nextToken"),
        )
        items = [_version(version, context.region) for version in page.items]
        return {"items": items, "nextToken": page.next_token}

    async def update_microvm_image_version(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        version = await self._images.set_status(
            context.account,
            request["imageIdentifier"],
            request["imageVersion"],
            VersionStatus(request["status"]),
        )
        return _version(version, context.region)

    async def delete_microvm_image_version(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        version = await self._images.delete_version(
            context.account, request["imageIdentifier"], request["imageVersion"]
        )
        return {
            "imageIdentifier": request["imageIdentifier"],
            "imageVersion": str(version.number),
            "state": version.state.value,
        }

    async def get_microvm_image_build(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        version = await self._find_version(context, request)
        build = next((one for one in version.builds if one.build_id == request["buildId"]), None)
        if build is None:
            raise NotFound(
                f"MicroVMImage build not found for MicroVMImage: {request['imageIdentifier']}, "
                f"Version: {version.number}, Build: {request['buildId']}"
            )
        item = _build(version, build, context.region)
        return {**item, "snapshotBuild": _sizes(build.sizes)}

    async def list_microvm_image_builds(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        """Newest first: one, and one more for each time that the version was built again."""
        version = await self._find_version(context, request)
        cursors = self._images.cursors
        scope = f"builds {context.account} {_image_arn(version, context.region)} {version.number}"
        after = cursors.open(scope, request.get("nextToken"))
        found = [build for build in reversed(version.builds) if _wanted(build, request)]
        start = next((n + 1 for n, one in enumerate(found) if one.build_id == after), 0)
        page = found[start : start + int(request.get("maxResults") or DEFAULT_PAGE)]
        more = start + len(page) < len(found)
        return {
            "items": [_build(version, build, context.region) for build in page],
            "nextToken": cursors.seal(scope, page[-1].build_id) if more else None,
        }

    async def list_managed_microvm_images(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        """One image is offered, so there is never a second page."""
        _refuse_token(request)
        newest, oldest = MANAGED_VERSIONS[0], MANAGED_VERSIONS[-1]
        item = {
            "imageArn": self._managed.arn,
            "createdAt": oldest.created_at,
            "updatedAt": newest.created_at,
        }
        return {"items": [item], "nextToken": None}

    async def list_managed_microvm_image_versions(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        found = self._managed.versions(request["imageIdentifier"])
        cursors, scope = self._images.cursors, f"managed {context.account} {self._managed.arn}"
        start = int(cursors.open(scope, request.get("nextToken")) or 0)
        end = start + int(request.get("maxResults") or len(found))
        items = [_managed(version, self._managed.arn) for version in found[start:end]]
        return {"items": items, "nextToken": cursors.seal(scope, end) if end < len(found) else None}

    async def _find_version(self, context: RequestContext, request: Request) -> Version:
        return await self._images.version(
            context.account, request["imageIdentifier"], request["imageVersion"]
        )


def _summary(view: ImageView) -> dict[str, Any]:
    image = view.image
    return {
        # Recorded on every image and in no model; stable, and different for a name used again.
        "id": str(uuid.uuid5(_ID_NAMESPACE, f"{image.arn} {image.created_at}")),
        "imageArn": str(image.arn),
        "name": image.name,
        "state": image.state.value,
        "latestActiveImageVersion": view.latest_active,
        "latestFailedImageVersion": view.latest_failed,
        "createdAt": image.created_at,
    }


def _detail(view: ImageView, version: Version) -> dict[str, Any]:
    return {
        **_summary(view),
        **_config(version.config),
        "imageVersion": str(version.number),
        "updatedAt": view.image.updated_at,
        "buildPhaseOverrides": None,
        "roleConfiguration": None,
    }


def _config(config: VersionConfig) -> dict[str, Any]:
    """Unset members are null, whatever their default is: recorded, as are the two exceptions."""
    return {
        "baseImageArn": config.base_image_arn,
        "baseImageVersion": echo_base_version(config.base_image_version),
        "buildRoleArn": config.build_role_arn,
        "description": config.description,
        "codeArtifact": {"uri": config.code_artifact_uri},
        "logging": _logging(config.logging),
        "egressNetworkConnectors": config.egress,
        "cpuConfigurations": [{"architecture": name} for name in config.cpu_configurations] or None,
        "resources": [{"minimumMemoryInMiB": config.memory_mib}],
        "additionalOsCapabilities": config.os_capabilities or None,
        "hooks": _hooks(config.hooks) if config.hooks_given else None,
        "environmentVariables": dict(config.environment) or None,
        "kmsKeyIdentifier": config.kms_key,
    }


def _logging(logging: Logging | None) -> dict[str, Any] | None:
    if logging is None:
        return None
    if logging.disabled:
        return {"disabled": {}}
    members = {"logGroup": logging.group, "logStream": logging.stream}
    return {"cloudWatch": {name: value for name, value in members.items() if value is not None}}


def _hooks(hooks: Hooks) -> dict[str, Any]:
    """Only what was sent is echoed."""
    members: dict[str, Any] = {"port": hooks.port}
    for group, names in (("microvmHooks", MICROVM_HOOKS), ("microvmImageHooks", IMAGE_HOOKS)):
        members[group] = _hook_group(hooks, names) or None
    return {name: value for name, value in members.items() if value is not None}


def _hook_group(hooks: Hooks, names: tuple[HookName, ...]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name in names:
        setting = hooks.settings.get(name)
        if setting is not None and setting.enabled is not None:
            members[name.value] = "ENABLED" if setting.enabled else "DISABLED"
        if setting is not None and setting.timeout_s is not None:
            members[f"{name.value}TimeoutInSeconds"] = setting.timeout_s
    return members


def _image_arn(version: Version, region: str) -> str:
    return str(ImageArn("aws", region, version.account, version.image_name))


def _version(version: Version, region: str) -> dict[str, Any]:
    stamp = time.strftime("%y%m%d%H", time.gmtime(version.updated_at))
    return {
        **_config(version.config),
        "imageArn": _image_arn(version, region),
        "imageVersion": str(version.number),
        "state": version.state.value,
        "status": version.status.value,
        "createdAt": version.created_at,
        "updatedAt": version.updated_at,
        "versionStateTimeBucket": f"{version.state.value}#{stamp}",
    }


def _build(version: Version, build: Build, region: str) -> dict[str, Any]:
    return {
        "imageArn": _image_arn(version, region),
        "imageVersion": str(version.number),
        "buildId": build.build_id,
        "buildState": build.state.value,
        "architecture": build.architecture,
        "chipset": build.chipset,
        "chipsetGeneration": build.chipset_generation,
        "stateReason": build.reason,
        "createdAt": build.created_at,
        "terminationReasonCode": None,
    }


def _sizes(sizes: SnapshotSizes | None) -> dict[str, int] | None:
    """Absent after a container failure, only the code size after a ready timeout (recorded)."""
    if sizes is None:
        return None
    members = {
        "memorySnapshotSizeInBytes": sizes.memory,
        "codeInstallSizeInBytes": sizes.code,
        "diskSnapshotSizeInBytes": sizes.disk,
    }
    return {name: value for name, value in members.items() if value is not None}


def _wanted(build: Build, request: Request) -> bool:
    return all(
        request.get(name) in (None, value)
        for name, value in (
            ("architecture", build.architecture),
            ("chipset", build.chipset),
            ("chipsetGeneration", build.chipset_generation),
        )
    )


def _managed(version: ManagedVersion, arn: str) -> dict[str, Any]:
    return {
        "imageArn": arn,
        "imageVersion": version.number,
        "status": version.status.value,
        "createdAt": version.created_at,
        "updatedAt": version.created_at,
        "supportedCpuConfigurations": [{"architecture": "ARM_64"}, {"architecture": "X86_64"}],
    }


def _refuse_token(request: Request) -> None:
    if request.get("nextToken") is not None:
        raise ValidationError("Invalid nextToken.")
