"""Which version a run takes, and what the node must know of it."""

from collections.abc import Mapping
from typing import Any

from microvmd.control.building import key_of
from microvmd.control.logs import run_delivery, run_log
from microvmd.control.lookups import find_image
from microvmd.control.managed import ManagedImages
from microvmd.control.store import Transaction
from microvmd.messages.node import MicrovmSpec
from microvmd.model.egress import Egress
from microvmd.model.errors import NotFound, ValidationError
from microvmd.model.hooks import HookName
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.image import Version, latest_active
from microvmd.model.microvm import MicroVm


def choose_version(
    tx: Transaction,
    account: str,
    arn: ImageArn,
    request: Mapping[str, Any],
    managed: ManagedImages,
) -> Version:
    """The pinned version or the newest active one; raise the recorded refusals.

    An image that does not exist, or is another account's, has no active version either.
    """
    pinned = request.get("imageVersion")
    image = find_image(tx, account, arn)
    versions = [] if image is None else tx.versions(account, arn.name)
    if pinned is None:
        number = latest_active(versions)
        suffix = ""
    else:
        number = ImageVersion.read(pinned)
        suffix = f" and version {pinned}"
    version = next((v for v in versions if v.number == number and v.runnable), None)
    if version is None:
        raise NotFound(f"No active version found for MicroVM image {arn}{suffix}")
    managed.check_run(version.config.base_image_version)
    if request.get("runHookPayload") and not version.config.hooks.enabled(HookName.RUN):
        raise ValidationError(
            "The run hook must be enabled on the MicroVM image to use runHookPayload."
        )
    return version


def spec_of(microvm: MicroVm, version: Version, egress: Egress) -> MicrovmSpec:
    """The node's view of a MicroVM in its present generation."""
    return MicrovmSpec(
        microvm_id=microvm.microvm_id,
        generation=microvm.generation,
        version=key_of(version, microvm.snapshot),
        image_arn=microvm.image_arn,
        size=version.config.size,
        hooks=version.config.hooks,
        log=run_log(microvm, version),
        run_hook_payload=microvm.run_hook_payload,
        egress=egress,
        execution_role_arn=microvm.execution_role_arn,
        kms_key=microvm.kms_key or version.config.kms_key,
        delivery=run_delivery(microvm, version),
    )
