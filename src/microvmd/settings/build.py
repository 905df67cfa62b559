"""The table ``[build]``: how Dockerfiles are run, and what they may take."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from microvmd.settings.section import AbsolutePath, Section

Mebibytes = Annotated[int, Field(ge=64, le=16 << 20)]


def _trusted_here() -> Path | None:
    """What this process trusts by its own variable, its builds may trust too."""
    named = os.environ.get("SSL_CERT_FILE")
    return Path(named) if named and Path(named).is_file() else None


class BuildSettings(Section):
    """How a Dockerfile becomes a root file system."""

    isolation: Literal["microvm", "namespace"] = Field(
        default="microvm",
        description="microvm runs each Dockerfile in a throw-away virtual machine; namespace is "
        "several times faster and only for Dockerfiles that you trust",
    )
    ca_bundle: AbsolutePath | None = Field(
        default_factory=_trusted_here,
        description="certificates that builds trust, for a mirror or proxy with a private CA; "
        "without it the file that SSL_CERT_FILE names, if that is set",
    )
    registries: tuple[str, ...] = Field(
        default=(), description="registries that FROM may pull from; none means local bases only"
    )
    timeout_seconds: int = Field(
        default=3600, ge=10, description="longest time that one build may take"
    )
    memory_mib: int = Field(
        default=2048, ge=512, le=1 << 20, description="memory of one build, in either isolation"
    )
    disk_mib: Mebibytes = Field(
        default=20480,
        description="disk of one build: its layers, kept or new, and all that it works with",
    )
    image_mib: Mebibytes = Field(
        default=8192, description="largest root file system of an image, as it is packed"
    )
    layers_mib: int = Field(
        default=20480,
        ge=0,
        description="layers that are kept of all builds of one account; the store that was used "
        "longest ago goes first, 0 keeps nothing",
    )
    layers_total_mib: int = Field(
        default=102400, ge=0, description="the same for all accounts together"
    )
    log_lines: int = Field(
        default=1000,
        ge=1,
        description="lines a second that the log keeps of what one build prints; it may print ten "
        "times as many at once after a silence",
    )

    @model_validator(mode="after")
    def _image_within_disk(self) -> Self:
        if self.image_mib > self.disk_mib:
            raise ValueError(
                f"image_mib ({self.image_mib}) is more than the disk of a build ({self.disk_mib})"
            )
        return self
