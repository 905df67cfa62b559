"""Builds image versions: artifact, root file system, snapshot; and says why when it cannot.

Implements ``node.agent.Builder``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from microvmd.build import image_config
from microvmd.build.builder import BuildOptions, Rootfs, build_rootfs
from microvmd.build.capture import Capture
from microvmd.build.failure import BuildFailed
from microvmd.build.image_config import InvalidConfig
from microvmd.build.log import BuildLog, build_log
from microvmd.build.source import SourceSettings, fetch
from microvmd.messages.keys import KeyRefused
from microvmd.messages.node import BuildVersion, VersionKey
from microvmd.model.image import SnapshotSizes
from microvmd.node.agent import BuildRefused
from microvmd.node.bring_up import Equipment, VmmMissing
from microvmd.node.paths import remove
from microvmd.node.plain import NoRoom
from microvmd.node.snapshot import ImageFiles, Manifest, SnapshotBroken
from microvmd.node.uniqueness import NotUnique
from microvmd.vmm.causes import ungrouped

log = structlog.get_logger(__name__)


class ImageBuilder:
    """``options`` gives what the operator decided for builds of an account."""

    def __init__(
        self,
        equipment: Equipment,
        source: SourceSettings,
        options: Callable[[str], BuildOptions],
    ) -> None:
        self._equipment = equipment
        self._source = source
        self._options = options

    async def build(self, command: BuildVersion) -> SnapshotSizes:
        """Raise BuildRefused with the reason that the caller reads."""
        rate = self._options(command.version.account).log_lines
        logs, target = self._equipment.logs, command.log
        async with self._delivered(command), build_log(logs, target, rate) as lines:
            try:
                with ungrouped():
                    return await self._build(command, lines)
            except BuildFailed as failed:
                lines(f"error: {failed.reason}")
                raise BuildRefused(failed.reason) from failed
            except (KeyRefused, NoRoom, NotUnique, SnapshotBroken, VmmMissing) as refused:
                lines(f"error: {refused}")
                raise BuildRefused(str(refused)) from refused
            except BuildRefused as failure:
                lines(f"error: {failure.reason}")
                raise
            except Exception:
                lines("error: the platform failed; the service's log has the cause")
                raise

    @asynccontextmanager
    async def _delivered(self, command: BuildVersion) -> AsyncIterator[None]:
        """Let CloudWatch Logs have the log of a build, with the rights of its role."""
        equipment, key = self._equipment, f"logs-{command.build_id}"
        with equipment.roles.session(command.config.build_role_arn, key, lazily=True) as role:
            async with equipment.deliveries.deliver(key, command.log, command.delivery, role):
                yield

    async def _build(self, command: BuildVersion, lines: BuildLog) -> SnapshotSizes:
        vault, config = self._equipment.vault, command.config
        if command.source is not None:
            why = await asyncio.to_thread(vault.unfit, command.source)
            lines(f"building the version again for this node: {why or 'as asked'}")
        # Before anything is fetched, as the key is.
        self._equipment.under(command.vmm)
        if config.kms_key is not None:
            # Before anything is fetched: a key that cannot be used now is not worth a build.
            await vault.prove(config.kms_key, str(command.version), config.build_role_arn)
        async with vault.workroom(config.kms_key) as work:
            manifest = await self._built(command, work, lines)
        sizes = manifest.sizes
        lines("done")
        return SnapshotSizes(sizes.memory, sizes.code, sizes.disk)

    async def _built(self, command: BuildVersion, work: Path, lines: BuildLog) -> Manifest:
        image = ImageFiles(work / "image")
        image.directory.mkdir()
        if command.source is None:
            rootfs = await self._from_artifact(command, work, image, lines)
        else:
            rootfs = await self._kept(command, command.source, work, image)
        try:
            equipment = self._equipment.under(command.vmm)
            return await Capture(equipment, command, rootfs, image, work, lines).run()
        except BaseException:
            # A version that was not finished must leave nothing behind.
            final = self._equipment.paths.image(command.version).directory
            await asyncio.to_thread(remove, final)
            raise

    async def _kept(
        self, command: BuildVersion, source: VersionKey, work: Path, image: ImageFiles
    ) -> Rootfs:
        """The root file system and the configuration of an earlier build."""
        vault, role = self._equipment.vault, command.config.build_role_arn
        kept = ImageFiles(work / "kept")
        kept.directory.mkdir()
        await vault.take_out(source, (kept.rootfs.name, kept.config.name), kept.directory, role)
        kept.rootfs.rename(image.rootfs)
        try:
            config = image_config.parse(kept.config.read_bytes())
        except InvalidConfig as error:
            raise SnapshotBroken(f"the configuration of the image is damaged: {error}") from error
        return Rootfs(image.rootfs, config, image.rootfs.stat().st_size)

    async def _from_artifact(
        self, command: BuildVersion, work: Path, image: ImageFiles, lines: BuildLog
    ) -> Rootfs:
        config = command.config
        lines(f"fetching {config.code_artifact_uri}")
        archive = await fetch(
            config.code_artifact_uri, config.build_role_arn, work / "artifact.zip", self._source
        )
        options = self._options(command.version.account)
        if config.kms_key is not None:
            # Layers hold what the image does, so they must not outlive the build.
            memory = self._equipment.vault.build_memory(config.kms_key)
            options = replace(options, layers=work, memory_bytes=memory)
        return await build_rootfs(
            archive,
            output_dir=image.directory,
            log=lines,
            options=options,
            egress=command.egress,
        )
