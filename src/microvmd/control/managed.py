"""Managed images: the base images that the platform offers (one, with two versions, as recorded).

A base image names the operating system around the application; the application's own files come
from its Dockerfile's FROM. Here the former is microvmd's guest kernel and agent.
"""

from dataclasses import dataclass

from microvmd.model.errors import NotFound, ValidationError
from microvmd.model.identifiers import ImageArn


@dataclass(frozen=True, slots=True)
class ManagedVersion:
    """``number`` is a bare integer string; ``created_at`` in wall-clock seconds."""

    number: str
    created_at: float
    status: str = "AVAILABLE"


MANAGED_NAME = "al2023-1"
# Newest first; the dates are the vendor's (reference, section 2.3).
MANAGED_VERSIONS = (
    ManagedVersion("1", 1784592000.0),
    ManagedVersion("0", 1781654400.0),
)


def managed_arn(region: str) -> str:
    return f"arn:aws:lambda:{region}:aws:microvm-image:{MANAGED_NAME}"


def check_base(arn: str, version: str | None, region: str) -> None:
    """Raise the recorded refusal for a base image or version that is not offered."""
    if arn != managed_arn(region):
        raise ValidationError(
            f"No managed MicroVM Image with arn {arn} is available. Use {managed_arn(region)}."
        )
    if version is not None and version not in {item.number for item in MANAGED_VERSIONS}:
        raise ValidationError(
            f"No managed MicroVM Image with arn {arn} and version {version} is available"
        )


def managed_versions(identifier: str, region: str) -> tuple[ManagedVersion, ...]:
    """The versions of a managed image, newest first."""
    if str(ImageArn.parse(identifier)) != managed_arn(region):
        raise NotFound(f"MicroVMImage not found for MicroVMImageID: {identifier}")
    return MANAGED_VERSIONS
