"""Managed images: the base images that the platform offers (one, with two versions, as recorded).

A base image names the operating system around the application; the application's own files come
from its Dockerfile's FROM. Here the former is microvmd's guest kernel and agent. The operator
retires a version by its status: DEPRECATED still builds and runs, RECALLED does neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from microvmd.model.errors import NotFound, ValidationError
from microvmd.model.identifiers import ImageArn


class BaseStatus(StrEnum):
    """Lifecycle of a managed image version, as the model's enum has it."""

    AVAILABLE = "AVAILABLE"
    DEPRECATED = "DEPRECATED"
    RECALLED = "RECALLED"


@dataclass(frozen=True, slots=True)
class ManagedVersion:
    """``number`` is a bare integer string; ``created_at`` in wall-clock seconds."""

    number: str
    created_at: float
    status: BaseStatus = BaseStatus.AVAILABLE


MANAGED_NAME = "al2023-1"
# Newest first; the dates are the vendor's (reference, section 2.3).
MANAGED_VERSIONS = (
    ManagedVersion("1", 1784592000.0),
    ManagedVersion("0", 1781654400.0),
)


@dataclass(frozen=True, slots=True)
class ManagedImages:
    """What is offered in one region. ``statuses`` are those that differ from AVAILABLE."""

    region: str
    statuses: Mapping[str, BaseStatus] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{self.region}:aws:microvm-image:{MANAGED_NAME}"

    @property
    def all_versions(self) -> tuple[ManagedVersion, ...]:
        """Newest first."""
        return tuple(
            replace(version, status=self.statuses.get(version.number, version.status))
            for version in MANAGED_VERSIONS
        )

    def versions(self, identifier: str) -> tuple[ManagedVersion, ...]:
        """The versions of a managed image, newest first; NotFound for another image."""
        if str(ImageArn.parse(identifier)) != self.arn:
            raise NotFound(f"MicroVMImage not found for MicroVMImageID: {identifier}")
        return self.all_versions

    def resolve(self, arn: str, number: str | None) -> str:
        """The version that a build takes: the newest where none is named.

        Raise the recorded refusal for a base image or version that is not offered (any more).
        """
        if arn != self.arn:
            raise ValidationError(
                f"No managed MicroVM Image with arn {arn} is available. Use {self.arn}."
            )
        usable = [v for v in self.all_versions if v.status is not BaseStatus.RECALLED]
        fresh = [v for v in usable if v.status is BaseStatus.AVAILABLE] or usable
        if number is None and fresh:
            return fresh[0].number
        if number is None or number not in {version.number for version in usable}:
            version = "" if number is None else f" and version {number}"
            raise ValidationError(f"No managed MicroVM Image with arn {arn}{version} is available")
        return number

    def check_run(self, number: str | None) -> None:
        """Raise ValidationError where the base of an image version has been recalled."""
        if number is not None and self.statuses.get(number) is BaseStatus.RECALLED:
            raise ValidationError(
                f"Version {number} of the managed MicroVM Image {self.arn} has been recalled. "
                "Build a new version of this image to run it."
            )
