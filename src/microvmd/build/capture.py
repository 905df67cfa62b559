"""From a root file system to an image snapshot: boot, start the application, wait, capture.

Then the snapshot is restored once, as every MicroVM will be, and asked to validate itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from microvmd.build import image_config
from microvmd.build.builder import Rootfs
from microvmd.build.log import BuildLog
from microvmd.messages.node import BuildVersion
from microvmd.model.hooks import HookName, build_failure_reason
from microvmd.node.agent import BuildRefused
from microvmd.node.bring_up import INITRD, KERNEL, Equipment
from microvmd.node.disk import create_disk
from microvmd.node.guest import GuestClient, GuestError, GuestGone, connect
from microvmd.node.jail import limits_of
from microvmd.node.paths import link
from microvmd.node.presence import build_present
from microvmd.node.snapshot import ImageFiles, Manifest
from microvmd.node.uniqueness import Given
from microvmd.vmm.machine import Boot, Drive, Machine, MachineFiles, MachineSpec, Start, launched

BOOT_LIMIT = 120.0
"""Seconds from power-on to the guest agent."""
POLL_INTERVAL = 0.1
"""Seconds between two looks at an application that is not ready yet."""
SETTLE_LIMIT = 60.0
"""Seconds that an application without a ready hook gets to listen on a port; then it is captured
as it is, since it may never mean to listen (the vendor leaves this moment undefined)."""
DEFAULT_PORT = 8080


@dataclass(frozen=True, slots=True)
class Capture:
    """One image being made. ``work`` is for sockets, logs and what is thrown away."""

    equipment: Equipment
    command: BuildVersion
    rootfs: Rootfs
    image: ImageFiles
    work: Path
    log: BuildLog

    async def run(self) -> Manifest:
        """The sealed image in its final place, restored once. Raises BuildRefused."""
        size = self.command.config.size
        vcpus = size.vcpus(self.equipment.host_cpus)
        for name, source in (
            (KERNEL, self.equipment.kernel.vmlinux),
            (INITRD, self.equipment.kernel.initrd),
        ):
            await asyncio.to_thread(link, source, self.image.directory / name)
        self.image.config.write_bytes(image_config.encode(self.rootfs.config))
        await create_disk(self.image.disk, size.disk_gib << 30)
        spec = self.equipment.machine_spec(
            self.image, size.peak_mib, vcpus, Drive("disk", self.image.disk)
        )
        closed = self.command.config.hooks.unreachable(self.rootfs.config.exposed_ports)
        if closed is not None:
            self.log(closed)
        under = f"{self.equipment.stamp.vmm} {self.equipment.stamp.vmm_version}"
        self.log(f"starting the application ({size.peak_mib} MiB, {vcpus} vCPU, {under})")
        async with self._machine(spec, Boot(), "boot") as (machine, guest):
            await self._start(guest)
            await self._wait_ready(guest)
            await guest.quiesce()
            self.log("taking the snapshot")
            await machine.snapshot_image(self.image.device)
            await machine.kill()
        config = self.command.config
        manifest = await self.equipment.vault.keep(
            self.image.directory,
            self.command.version,
            key_id=config.kms_key,
            role=config.build_role_arn,
            stamp=self.equipment.stamp,
            memory_mib=size.peak_mib,
            vcpus=vcpus,
        )
        await self._validate()
        return manifest

    async def _start(self, guest: GuestClient) -> None:
        config = self.rootfs.config
        if not config.argv:
            raise BuildRefused(
                "CONTAINER_BUILD_FAILED: The image has neither ENTRYPOINT nor CMD: nothing to run."
            )
        await guest.configure("localhost", "0" * 32)
        self.log(f"starting {config.argv[0]}")
        try:
            await guest.start(
                config.argv,
                env=self._environment(),
                cwd=config.working_dir,
                user=config.user,
                all_capabilities="ALL" in self.command.config.os_capabilities,
            )
        except GuestError as error:
            # No such file, not executable, no such user: the image's own fault.
            raise self._refused(f"The application cannot be started: {error.message}") from error

    def _environment(self) -> list[str]:
        """The image's, the request's, the platform's: the later wins (reference, section 7)."""
        values = dict(item.split("=", 1) for item in self.rootfs.config.env)
        values.update(self.command.config.environment)
        version = self.command.version
        values.update(
            {
                "AWS_REGION": self.command.image_arn.split(":")[3],
                "AWS_LAMBDA_MICROVM_IMAGE_ARN": self.command.image_arn,
                "AWS_LAMBDA_MICROVM_IMAGE_NAME": version.image_name,
                "AWS_LAMBDA_MICROVM_IMAGE_VERSION": version.number,
            }
        )
        return [f"{name}={value}" for name, value in values.items()]

    async def _wait_ready(self, guest: GuestClient) -> None:
        if self.command.config.hooks.enabled(HookName.READY):
            await self._poll_hook(guest, HookName.READY)
            return
        ports = set(self.rootfs.config.exposed_ports) or {DEFAULT_PORT}
        names = ", ".join(map(str, sorted(ports)))
        self.log(f"no ready hook: waiting for the application to listen on port {names}")
        try:
            async with asyncio.timeout(SETTLE_LIMIT):
                while not ports & await guest.listening():
                    await self._pause(guest)
        except TimeoutError:
            self.log(f"nothing listens on port {names}: taking the snapshot as it is")

    async def _poll_hook(self, guest: GuestClient, name: HookName) -> None:
        hooks = self.command.config.hooks
        limit = hooks.timeout_s(name)
        self.log(f"calling /{name.value} on port {hooks.effective_port} for up to {limit} s")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        while True:
            left = max(deadline - loop.time(), 0.001)
            answer = await guest.hook(name, hooks.effective_port, timeout_s=left)
            if answer.ok:
                return
            if not answer.again(name) or loop.time() + POLL_INTERVAL >= deadline:
                raise self._refused(build_failure_reason(name, answer, limit))
            await self._pause(guest)

    async def _pause(self, guest: GuestClient) -> None:
        """Wait for the next look; raise BuildRefused when the application ends instead."""
        try:
            async with asyncio.timeout(POLL_INTERVAL):
                ended = await guest.exited()
        except TimeoutError:
            return
        how = f"code {ended.code}" if ended.code is not None else f"signal {ended.signal}"
        raise self._refused(f"The application ended with {how} before it was ready.")

    def _refused(self, reason: str) -> BuildRefused:
        return BuildRefused(reason, code_bytes=self.rootfs.size)

    async def _validate(self) -> None:
        self.log("restoring the snapshot once")
        overlay = self.work / "validate.qcow2"
        role = self.command.config.build_role_arn
        async with self.equipment.vault.holding(self.command.build_id) as hold:
            kept = await self.equipment.vault.image(hold, self.command.version, role)
            await self.equipment.create_disk(overlay, kept.files)
            spec = self.equipment.clone_spec(kept.files, kept.manifest, overlay)
            async with self._machine(spec, kept.files.start, "validate") as (_, guest):
                given = Given.of(f"microvm-{self.command.build_id}")
                found = await guest.restored(**asdict(given))
                self.equipment.uniqueness.prove(given, found)
                if self.command.config.hooks.enabled(HookName.VALIDATE):
                    await self._poll_hook(guest, HookName.VALIDATE)

    @asynccontextmanager
    async def _machine(
        self, spec: MachineSpec, start: Start, name: str
    ) -> AsyncIterator[tuple[Machine, GuestClient]]:
        """A machine of this build, whose guest agent answers."""
        directory = self.work / name
        directory.mkdir(mode=0o700)
        files = MachineFiles(directory)
        in_memory = self.equipment.vault.build_memory(self.command.config.kms_key)
        limits = limits_of(spec, files=in_memory)
        kind = self.equipment.accelerator.kind
        async with AsyncExitStack() as stack:
            network = await stack.enter_async_context(
                self.equipment.networks.network(self.command.egress)
            )
            stack.enter_context(build_present(network, self.equipment.roles, self.command))
            jail = await stack.enter_async_context(
                self.equipment.jails.jail(f"{name}-{self.command.build_id}", limits, kind)
            )
            machine = await stack.enter_async_context(
                launched(self.equipment.vmm, spec, files, jail, start, tap=network.tap)
            )
            await machine.cont()
            guest = await stack.enter_async_context(connect(machine.agent, timeout=BOOT_LIMIT))
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self.log.follow(guest))
                try:
                    yield machine, guest
                except GuestGone as gone:
                    raise machine.failed(str(gone)) from gone
                finally:
                    # What the application said last tells why a build fails.
                    guest.logs.end()
                    await following
