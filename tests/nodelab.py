"""A node of a test's own: real networks, jails, VMMs and agent, and an image to run on it.

The image is built once per session from a static program (`vm/lifecycle.c`); each test opens the
node anew over the same root, as a restart of the service does.
"""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import httpx

from microvmd.build.builder import Rootfs
from microvmd.build.capture import Capture
from microvmd.build.image_config import ImageConfig
from microvmd.build.log import build_log
from microvmd.messages.node import (
    BuildVersion,
    LogTarget,
    MicrovmSpec,
    Report,
    StartMicrovm,
    TerminateMicrovm,
    VersionKey,
)
from microvmd.model.egress import INTERNET, Egress
from microvmd.model.hooks import MICROVM_HOOKS, HookName, Hooks, HookSetting
from microvmd.model.identifiers import new_build_id, new_microvm_id
from microvmd.model.image import SnapshotSizes, VersionConfig
from microvmd.model.pool import PoolRules
from microvmd.node.agent import BuildRefused, NodeAgent
from microvmd.node.aws_access import AwsAccess
from microvmd.node.bring_up import Equipment
from microvmd.node.delivery import open_deliveries
from microvmd.node.jail import Jails
from microvmd.node.kernel import GuestKernel, prepare
from microvmd.node.kms import Kms, KmsSettings
from microvmd.node.logs import LogStore
from microvmd.node.network import NetworkPool
from microvmd.node.paths import NodePaths
from microvmd.node.plain import PlainDirectory
from microvmd.node.roles import open_roles
from microvmd.node.slots import NetworkSettings
from microvmd.node.snapshot import ImageFiles, Stamp
from microvmd.node.vault import Vault
from microvmd.vmm.choice import choose, choose_others
from microvmd.vmm.machine import Accelerator, Vmm, Wanted
from microvmd.vmm.qemu import QemuVmm, installed_version
from tests.accelerated import PATIENCE, accelerator
from tests.checkout import ASSETS, CHECKOUT
from tests.lanes import Lane

FIRECRACKER = CHECKOUT / "build" / "firecracker"
VMM_VARIABLE = "MICROVMD_TEST_VMM"
"""The same tests under Firecracker, where there is KVM."""
PROGRAM = CHECKOUT / "tests" / "vm" / "lifecycle.c"
ACCOUNT = "000000000000"
ROLE = "arn:aws:iam::123456789012:role/lab"
IMAGE_ARN = f"arn:aws:lambda:eu-central-1:{ACCOUNT}:microvm-image:app"
VERSION = VersionKey(ACCOUNT, "app", "1.0")
LIMIT = 60.0 * PATIENCE
"""Seconds for one report; a restore takes well under one on an idle machine."""
ALL_HOOKS = Hooks(9000, {name: HookSetting(True, 20) for name in HookName})
READY_ONLY = Hooks(9000, {HookName.READY: HookSetting(True, 20)})

# Nobody answers there: for nodes whose MicroVMs have no role.
NO_AWS = AwsAccess("eu-central-1", "http://127.0.0.1:9", "http://127.0.0.1:9", "test", "test")

R = TypeVar("R")


def vmm_kind() -> str:
    """What nodes of tests run their machines under, unless a test says otherwise."""
    return os.environ.get(VMM_VARIABLE, "qemu")


class NoBuilder:
    """A builder for nodes that are asked to build nothing."""

    async def build(self, command: BuildVersion) -> SnapshotSizes:
        raise BuildRefused(f"no builder for {command.version}")


@dataclass
class Reports:
    """Where a node's reports go; the test reads them in order."""

    queue: asyncio.Queue[Report] = field(default_factory=asyncio.Queue)

    async def __call__(self, report: Report) -> None:
        self.queue.put_nowait(report)

    async def next(self, kind: type[R]) -> R:
        """The next report, which must be of this kind."""
        async with asyncio.timeout(LIMIT):
            report = await self.queue.get()
        assert isinstance(report, kind), report
        return report


@dataclass(frozen=True)
class NodeLab:
    """What outlives a restart of the node."""

    lane: Lane
    directory: Path
    kernel: GuestKernel
    accelerator: Accelerator
    vmm_kind: str = "qemu"
    offered: tuple[str, ...] = ()
    """VMMs beside it that an image may choose."""
    qemu: Path | None = None
    """Another program than the machine's."""
    aws: AwsAccess = NO_AWS
    kms: KmsSettings = field(default_factory=lambda: KmsSettings("us-east-1"))
    program: Path = PROGRAM
    memory_mib: int = 512
    """Of the baseline of its images."""
    pool: PoolRules = field(default_factory=PoolRules)
    """Nothing waits, unless a test is about that."""

    @classmethod
    @contextmanager
    def made(cls) -> Iterator["NodeLab"]:
        """In a directory of its own. Names of sockets must be short."""
        with (
            tempfile.TemporaryDirectory(prefix="node-") as directory,
            Lane.claimed(directory) as lane,
        ):
            kernel = prepare(ASSETS, Path(directory) / "cache")
            yield cls(lane, Path(directory), kernel, accelerator(), vmm_kind())

    @classmethod
    @contextmanager
    def with_image(cls) -> Iterator["NodeLab"]:
        """With one image version on it: VERSION."""
        with cls.made() as lab:

            async def capture() -> None:
                async with lab.equipment() as equipment:
                    await lab.capture(equipment)

            asyncio.run(capture())
            yield lab

    @property
    def plain(self) -> Path:
        """Where plain files of encrypted snapshots are."""
        return self.directory / "run" / "plain"

    @property
    def network_settings(self) -> NetworkSettings:
        return self.lane.networks(self.directory / "run")

    async def vmm(self) -> Vmm:
        if self.qemu is not None:
            return QemuVmm(await installed_version(self.qemu), self.qemu)
        return (await choose(Wanted(self.vmm_kind), self.accelerator, FIRECRACKER)).vmm

    @asynccontextmanager
    async def equipment(self) -> AsyncIterator[Equipment]:
        paths = NodePaths(self.directory / "root")
        paths.make()
        self.network_settings.run.mkdir(exist_ok=True)
        vmm = await self.vmm()
        jailing = replace(self.lane.jails(self.directory / "cache"), surroundings=vmm.surroundings)
        jails = await Jails.open(jailing)
        offered = await choose_others(Wanted(), self.offered, vmm, self.accelerator, FIRECRACKER)
        stamp = Stamp.of(self.accelerator, vmm)
        others = [Stamp.of(self.accelerator, one) for one in offered]
        async with AsyncExitStack() as stack:
            stack.enter_context(closing(jails))
            networks = await stack.enter_async_context(NetworkPool(self.network_settings))
            logs = await stack.enter_async_context(LogStore(paths.logs))
            roles = await stack.enter_async_context(open_roles(self.aws))
            deliveries = await stack.enter_async_context(
                open_deliveries(paths.delivery, logs, roles, self.aws)
            )
            kms = await stack.enter_async_context(Kms(self.kms))
            vault = Vault(paths, stamp, PlainDirectory(self.plain), kms, others=others)
            own = Equipment(
                paths=paths,
                kernel=self.kernel,
                accelerator=self.accelerator,
                vmm=vmm,
                networks=networks,
                jails=jails,
                logs=logs,
                stamp=stamp,
                vault=vault,
                host_cpus=2,
                roles=roles,
                deliveries=deliveries,
                pool=self.pool,
            )
            yield await own.offering(offered)

    def rootfs(
        self, directory: Path, *arguments: str, cmd: bool = True, secret: str = "", user: str = ""
    ) -> Rootfs:
        """An image that holds the program, a file with the secret and nothing else."""
        tree = directory / "tree"
        tree.mkdir()
        app = tree / "app"
        subprocess.run(["gcc", "-O1", "-static", "-o", app, self.program], check=True, timeout=60)
        (tree / "secret").write_text(secret)
        erofs = directory / "rootfs.erofs"
        subprocess.run(
            ["mkfs.erofs", "-zlz4", erofs, tree], check=True, timeout=60, capture_output=True
        )
        argv = ("/app", *arguments) if cmd else ()
        config = ImageConfig(argv, env=("A=image", "B=image"), user=user)
        return Rootfs(erofs, config, erofs.stat().st_size)

    async def capture(
        self,
        equipment: Equipment,
        *arguments: str,
        hooks: Hooks = ALL_HOOKS,
        cmd: bool = True,
        version: VersionKey = VERSION,
        egress: Egress = INTERNET,
        kms_key: str | None = None,
        secret: str = "",
        capabilities: tuple[str, ...] = (),
        user: str = "",
    ) -> BuildVersion:
        """Make an image version of the program. Raises BuildRefused, maybe in a group.

        ``secret`` is in its root file system, and in the memory of the program.
        """
        config = VersionConfig(
            "base",
            ROLE,
            "s3://b/k",
            hooks=hooks,
            memory_mib=self.memory_mib,
            os_capabilities=capabilities,
            environment={"SECRET": secret},
            kms_key=kms_key,
        )
        build_id = new_build_id()
        command = BuildVersion(
            version, build_id, IMAGE_ARN, config, LogTarget("build", version.number), egress
        )
        async with equipment.vault.workroom(kms_key) as work:
            image = ImageFiles(work / "image")
            image.directory.mkdir()
            rootfs = self.rootfs(work, *arguments, cmd=cmd, secret=secret, user=user)
            rootfs.erofs.rename(image.rootfs)
            async with build_log(equipment.logs, command.log) as log:
                await Capture(equipment, command, rootfs, image, work, log).run()
        return command

    @asynccontextmanager
    async def node(self) -> AsyncIterator["RunningNode"]:
        """The node from start to stop; MicroVMs that run at its end go on without it."""
        async with AsyncExitStack() as stack:
            equipment = await stack.enter_async_context(self.equipment())
            reports = Reports()
            agent = await stack.enter_async_context(NodeAgent(equipment, NoBuilder(), reports))
            yield RunningNode(self, equipment, agent, reports)


@dataclass(frozen=True)
class RunningNode:
    """One run of the node."""

    lab: NodeLab
    equipment: Equipment
    agent: NodeAgent
    reports: Reports

    async def start(self, spec: MicrovmSpec) -> None:
        await self.agent.send(StartMicrovm(spec))

    async def terminate(self, spec: MicrovmSpec) -> None:
        await self.agent.send(TerminateMicrovm(spec.microvm_id, spec.generation))

    def pid_of(self, spec: MicrovmSpec) -> int | None:
        """The VMM that the node has on record and that is alive."""
        record = self.equipment.vmm_of(self.equipment.paths.microvm(spec.microvm_id))
        return None if record is None else record.identity.pid

    def address_of(self, spec: MicrovmSpec) -> str:
        """Where the VMM on record takes requests, also before that is reported."""
        record = self.equipment.vmm_of(self.equipment.paths.microvm(spec.microvm_id))
        assert record is not None
        settings = self.lab.network_settings
        return settings.slot(settings.index_of(record.network)).edge_address

    async def log_of(self, spec: MicrovmSpec) -> list[str]:
        await self.equipment.logs.flush()
        page = await self.equipment.logs.read(spec.log.group, spec.log.stream)
        return [entry.text for entry in page.entries]


def spec_of(
    hooks: Hooks = READY_ONLY, *, generation: int = 1, egress: Egress = INTERNET
) -> MicrovmSpec:
    """A new MicroVM of the image."""
    microvm_id = new_microvm_id()
    return MicrovmSpec(
        microvm_id=microvm_id,
        generation=generation,
        version=VERSION,
        image_arn=IMAGE_ARN,
        size=VersionConfig("base", "role", "uri", memory_mib=512).size,
        hooks=hooks,
        log=LogTarget("/aws/lambda-microvms/app", microvm_id),
        run_hook_payload="payload",
        egress=egress,
    )


def with_hooks(*names: HookName) -> Hooks:
    assert set(names) <= set(MICROVM_HOOKS)
    return Hooks(9000, {name: HookSetting(True, 20) for name in (HookName.READY, *names)})


async def ask(address: str, path: str) -> str:
    """One request to the application, as the edge makes it."""
    async with httpx.AsyncClient(timeout=LIMIT, trust_env=False) as client:
        answer = await client.get(f"http://{address}:8080/{path}")
    assert answer.status_code == 200, answer.text
    return answer.text
