"""What a build of a version is called, where its files are, and what its node is told."""

import platform

from microvmd.control.egress import ConnectorUse
from microvmd.control.logs import build_delivery, build_log
from microvmd.control.store import Transaction
from microvmd.messages.node import BuildVersion, VersionKey
from microvmd.model.identifiers import new_build_id
from microvmd.model.image import Build, Image, Version


def key_of(version: Version, snapshot: str | None = None) -> VersionKey:
    """The files that MicroVMs are started from now, or those of another of its builds."""
    build = version.snapshot if snapshot is None else snapshot
    return VersionKey(version.account, version.image_name, str(version.number), build)


def host_processor() -> tuple[str, str, str]:
    """Architecture, chipset and generation as the API names them: an approximation for Intel and
    AMD hosts, which the model's Chipset enum calls INTEL alike."""
    machine = platform.machine()
    if machine == "aarch64":
        return "ARM_64", "GRAVITON", "4"
    return "X86_64", "INTEL", machine


def new_build(now: float) -> Build:
    """For this machine's processor."""
    return Build(new_build_id(), *host_processor(), now)


def build_command(
    tx: Transaction, use: ConnectorUse, image: Image, version: Version, build: Build
) -> BuildVersion:
    """For the first build of a version, or for one that makes its snapshot anew."""
    again = build is not version.build
    return BuildVersion(
        egress=use.opened(tx, version.config.egress, version.grants),
        version=key_of(version, build.build_id if again else ""),
        build_id=build.build_id,
        image_arn=str(image.arn),
        config=version.config,
        log=build_log(version, build),
        delivery=build_delivery(version, build),
        vmm=image.vmm,
        source=key_of(version) if again else None,
    )
