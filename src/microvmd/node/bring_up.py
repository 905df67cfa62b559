"""From files to a MicroVM that answers: network, jail, VMM, guest agent, in this order.

``Equipment`` is what a node shares between its MicroVMs; ``Prepared`` is a VMM without a guest, and
``Running`` is what one MicroVM holds. The image build (``build/capture.py``) brings its machines up
the same way.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import structlog

from microvmd.messages.node import MicrovmSpec, VersionKey
from microvmd.model.image import VMM_TAG
from microvmd.model.pool import PoolRules
from microvmd.node.delivery import Deliveries
from microvmd.node.disk import clone_drive, create_clone
from microvmd.node.guest import GuestBroken, GuestClient, GuestGone, connect_restored
from microvmd.node.jail import OUT_OF_MEMORY, Jail, Jails, limits_of
from microvmd.node.kernel import GuestKernel
from microvmd.node.logs import LogStore
from microvmd.node.network import Network, NetworkPool
from microvmd.node.output import output_kept
from microvmd.node.paths import MicrovmFiles, NodePaths
from microvmd.node.presence import microvm_present
from microvmd.node.roles import Roles, RoleSession
from microvmd.node.snapshot import ImageFiles, Manifest, SnapshotBroken, Stamp, read
from microvmd.node.timings import CLAIM, Timings
from microvmd.node.uniqueness import Given, Uniqueness
from microvmd.node.vault import Vault
from microvmd.node.working import Hold, WorkingFiles
from microvmd.vmm.causes import ungrouped
from microvmd.vmm.machine import (
    Accelerator,
    Drive,
    EmptyMachine,
    EndReason,
    FromImage,
    FromSuspend,
    Machine,
    MachineFailed,
    MachineFiles,
    MachineSpec,
    Status,
    Vmm,
)
from microvmd.vmm.process import Process, ProcessGone, ProcessIdentity, owned
from microvmd.vmm.shield import shielded

log = structlog.get_logger(__name__)

# In the image's own directory: a later kernel of the node must not meet an older snapshot.
KERNEL = "vmlinux"
INITRD = "initrd"
END_LIMIT = 2.0
AGENT_LIMIT = 30.0
"""Seconds for a restored guest to answer; far beyond what a loaded node needs."""
CLOCK_TOLERANCE_NS = 30_000_000
"""By how much a guest's clock may be behind ours when it starts."""
CLOCK_TRIES = 8
COPY_LIMIT = 600.0
"""Seconds for a MicroVM's copy of a disk."""


@dataclass(frozen=True, slots=True)
class VmmRecord:
    """What the next run of the node must know to adopt a VMM."""

    identity: ProcessIdentity
    network: str
    jail: str

    def write(self, path: Path) -> None:
        fields = {
            "pid": self.identity.pid,
            "start_time": self.identity.start_time,
            "network": self.network,
            "jail": self.jail,
        }
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(fields))
        fresh.rename(path)

    @classmethod
    def read(cls, path: Path) -> "VmmRecord | None":
        try:
            fields = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        return cls(
            ProcessIdentity(fields["pid"], fields["start_time"]),
            fields["network"],
            # One of an older version has none: its jail has the name of the MicroVM.
            fields.get("jail", path.parent.name),
        )


class VmmMissing(Exception):
    """An image asks for a VMM that this node does not offer."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a node shares between its MicroVMs. ``host_cpus`` caps virtual processors.

    It is that of the node's own VMM; ``others`` have the VMMs that an image may choose beside it,
    and share all else.
    """

    paths: NodePaths
    kernel: GuestKernel
    accelerator: Accelerator
    vmm: Vmm
    networks: NetworkPool
    jails: Jails
    logs: LogStore
    stamp: Stamp
    vault: Vault
    host_cpus: int
    roles: Roles
    deliveries: Deliveries
    pool: PoolRules = field(default_factory=PoolRules)
    uniqueness: Uniqueness = field(default_factory=Uniqueness)
    others: Mapping[str, "Equipment"] = field(default_factory=dict)
    """By the names of their VMMs."""

    def under(self, vmm: str | None) -> "Equipment":
        """With the VMM of this name, or the node's own. Raises VmmMissing."""
        if vmm in (None, self.vmm.name):
            return self
        found = self.others.get(vmm or "")
        if found is None:
            raise VmmMissing(
                f"VMM_NOT_OFFERED: The image asks for {vmm} (tag {VMM_TAG}), and this node offers "
                f"{', '.join([self.vmm.name, *self.others])}: change the tag and build again, or "
                "let the operator offer it (vmm.offered)."
            )
        return found

    async def offering(self, vmms: Sequence[Vmm]) -> "Equipment":
        """Which images may choose these VMMs with; its vault must know their stamps."""
        others: dict[str, Equipment] = {}
        for vmm in vmms:
            others[vmm.name] = replace(
                self,
                vmm=vmm,
                stamp=Stamp.of(self.accelerator, vmm),
                jails=await self.jails.around(vmm.surroundings),
            )
        return replace(self, others=others)

    def of_image(self, version: VersionKey) -> "Equipment":
        """With the VMM that an image is of; the node's own where the start will tell why not."""
        if not self.others:
            return self
        try:
            made = read(self.paths.image(version).directory).stamp.vmm
        except SnapshotBroken:
            return self
        return self.others.get(made, self)

    def clone_spec(self, image: ImageFiles, manifest: Manifest, overlay: Path) -> MachineSpec:
        """The machine of a clone: the image's memory, its rootfs, and a disk over or like its."""
        return self.machine_spec(
            image,
            manifest.memory_mib,
            manifest.vcpus,
            clone_drive(self.vmm.disk_format, overlay, image.disk),
        )

    async def create_disk(self, overlay: Path, image: ImageFiles) -> None:
        """The disk of `clone_spec`."""
        work = asyncio.to_thread(create_clone, self.vmm.disk_format, overlay, image.disk)
        await shielded(work, limit=COPY_LIMIT)

    def machine_of(self, working: WorkingFiles) -> MachineSpec:
        """The machine of a MicroVM."""
        image = working.image
        return self.clone_spec(image.files, image.manifest, working.suspend.overlay)

    def machine_spec(
        self, image: ImageFiles, memory_mib: int, vcpus: int, disk: Drive
    ) -> MachineSpec:
        """What a boot and all restores of one image have in common."""
        return MachineSpec(
            memory_mib=memory_mib,
            vcpus=vcpus,
            memory_file=image.memory,
            kernel=image.directory / KERNEL,
            initrd=image.directory / INITRD,
            accelerator=self.accelerator,
            drives=(Drive("rootfs", image.rootfs, read_only=True), disk),
        )

    def output_kept(
        self, guest: GuestClient, spec: MicrovmSpec, role: RoleSession | None
    ) -> AbstractAsyncContextManager[None]:
        """Keep what a MicroVM prints while the context lasts."""
        return output_kept(guest.logs, spec, self.logs, self.deliveries, role)

    def vmm_of(self, files: MicrovmFiles) -> VmmRecord | None:
        """The VMM that an earlier run of the node left for this MicroVM, if it is alive."""
        record = VmmRecord.read(files.identity)
        return record if record is not None and record.identity.alive() else None

    async def end_vmm(self, files: MicrovmFiles) -> None:
        """Kill the VMM that an earlier run of the node left, if there is one, with all it holds."""
        record = self.vmm_of(files)
        if record is None:
            return
        # It may end by itself meanwhile.
        with suppress(ProcessGone):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.networks.adopt(record.network))
                await stack.enter_async_context(self.jails.adopt(record.jail, record.identity))
                process = await stack.enter_async_context(owned(Process.adopt(record.identity)))
                await process.kill()

    async def sweep(self, kept: Set[str]) -> None:
        """End VMMs, networks and jails that no MicroVM of ``kept`` owns."""
        records = {microvm_id: self.vmm_of(self.paths.microvm(microvm_id)) for microvm_id in kept}
        alive = {name: record for name, record in records.items() if record is not None}
        self.jails.sweep({record.jail for record in alive.values()})
        await self.networks.sweep(keep={record.network for record in alive.values()})
        await self.vault.sweep(alive.keys())


@dataclass(frozen=True, slots=True)
class Prepared:
    """A VMM that holds no guest yet, and what it runs in."""

    network: Network
    jail: Jail
    vmm: EmptyMachine


@dataclass(slots=True)
class Running:
    """One MicroVM that has a VMM."""

    network: Network
    jail: Jail
    machine: Machine
    guest: GuestClient
    files: WorkingFiles
    connect: Callable[[], Awaitable[GuestClient]]
    """Reach its agent anew."""

    async def mend(self) -> None:
        """After a suspend that was taken back: under some VMMs it cuts the way to the agent.

        The guest hears that a moment later, and loses what streams it has then. Its agent takes one
        stream at a time, so it answers on the new one only when the old one was cut.
        """
        if self.machine.agent.knocks:
            guest = await self.connect()
            self.guest.hang_up()
            self.guest = guest

    def kept(self) -> AbstractContextManager[None]:
        """When the body is cancelled, VMM and network are left alive for the next run to adopt."""
        return kept(self.files.hold, self.network, self.machine)

    async def end(self) -> str:
        """Wait until the application or the VMM ends by itself; why, as a stateReason."""
        try:
            ended = await self.guest.exited()
        except GuestBroken as broken:
            # Nothing that it says can be believed any more, and nothing more can be asked of it.
            return f"The MicroVM was ended: {broken}."
        except GuestGone:
            machine = await self.machine.wait()
            if self.jail.out_of_memory():
                return OUT_OF_MEMORY
            if machine.reason is EndReason.CRASH:
                return f"The VMM ended unexpectedly ({machine.exit})."
            return f"The guest ended ({machine.reason.value})."
        how = f"code {ended.code}" if ended.code is not None else f"signal {ended.signal}"
        return f"Main process exited with {how}."


async def prepare(
    stack: AsyncExitStack,
    equipment: Equipment,
    network: Network,
    name: str,
    spec: MachineSpec,
    directory: Path,
    start: FromImage | FromSuspend,
    *,
    in_memory: int = 0,
) -> Prepared:
    """Start a VMM that is to be filled by `start`, in a jail of this name.

    All that it holds is on ``stack``; a record of it is in ``directory``. ``in_memory`` is how many
    bytes of memory its files may take.
    """
    limits = limits_of(spec, files=in_memory)
    jail = await stack.enter_async_context(
        equipment.jails.jail(name, limits, equipment.accelerator.kind)
    )
    stack.enter_context(jail.explained())
    vmm = await stack.enter_async_context(
        equipment.vmm.prepare(spec, MachineFiles(directory), jail, start, tap=network.tap)
    )
    VmmRecord(vmm.identity, network.name, name).write(MicrovmFiles(directory).identity)
    return Prepared(network, jail, vmm)


async def bring_up(
    stack: AsyncExitStack,
    equipment: Equipment,
    spec: MicrovmSpec,
    working: WorkingFiles,
    start: FromImage | FromSuspend,
    timings: Timings,
    *,
    claimed: Prepared | None = None,
    before_cont: Callable[[], None] | None = None,
) -> Running:
    """Restore a MicroVM and make it itself. All that it holds is on ``stack``.

    ``claimed`` is a VMM that was prepared for just this and is on ``stack`` already, else one is
    started. ``before_cont`` burns what the MicroVM could be restored from again; from then on a
    cancellation leaves it running.
    """
    files = equipment.paths.microvm(spec.microvm_id)
    machine_spec = equipment.machine_of(working)
    with timings.step("network" if claimed is None else CLAIM):
        network = await _network(stack, equipment, spec, claimed)
    role = stack.enter_context(microvm_present(network, equipment.roles, spec))
    with ungrouped():
        async with asyncio.TaskGroup() as tasks:
            if (closed := spec.hooks.closed_port) is not None:
                # Beside the start of the VMM: takes a process, and must be done before requests.
                tasks.create_task(network.block_port(closed))
            with timings.step("vmm"):
                prepared = claimed or await prepare(
                    stack,
                    equipment,
                    network,
                    spec.microvm_id,
                    machine_spec,
                    files.directory,
                    start,
                    in_memory=working.in_memory,
                )
                machine = await stack.enter_async_context(
                    prepared.vmm.fill(machine_spec, MachineFiles(files.directory))
                )
    with nullcontext() if before_cont is None else kept(working.hold, network, machine):
        if before_cont is not None:
            before_cont()
        await machine.cont()
        with timings.step("guest.restored"):
            try:
                guest = await _identified(
                    stack, equipment, machine, spec.microvm_id, end_connections=True
                )
            except GuestGone as gone:
                raise await lost(machine, gone) from gone
        await stack.enter_async_context(equipment.output_kept(guest, spec, role))
    connect = _connector(stack, equipment, machine, spec, role)
    return Running(network, prepared.jail, machine, guest, working, connect)


async def lost(machine: Machine, gone: GuestGone) -> GuestGone | MachineFailed:
    """Why a guest was not heard: one that broke the protocol, or a machine that ended, and how."""
    if isinstance(gone, GuestBroken):
        return gone
    what = f"the guest was lost before it answered: {gone}"
    with suppress(TimeoutError):
        # A VMM closes its sockets before it ends.
        async with asyncio.timeout(END_LIMIT):
            what += f" ({(await machine.wait()).reason.value})"
    return machine.failed(what)


async def _network(
    stack: AsyncExitStack, equipment: Equipment, spec: MicrovmSpec, claimed: Prepared | None
) -> Network:
    if claimed is None:
        return await stack.enter_async_context(equipment.networks.network(spec.egress))
    await equipment.networks.change(claimed.network, spec.egress)
    return claimed.network


class Detachable(Protocol):
    """What can be left alive when its context ends."""

    def detach(self) -> None: ...


@contextmanager
def kept(*held: Detachable) -> Iterator[None]:
    """A service that stops must end no MicroVM whose state is nowhere but in its VMM."""
    try:
        yield
    except asyncio.CancelledError:
        for one in held:
            one.detach()
        raise


async def adopt(
    stack: AsyncExitStack, equipment: Equipment, spec: MicrovmSpec, hold: Hold, *, serving: bool
) -> Running:
    """Take over the VMM that an earlier run of the node left. Raises ProcessGone.

    ``serving``: requests have been let in, and they go on.
    """
    files = equipment.paths.microvm(spec.microvm_id)
    record = equipment.vmm_of(files)
    if record is None:
        raise ProcessGone(f"{spec.microvm_id} has no VMM")
    working = equipment.vault.adopted(hold, spec)
    machine_spec = equipment.machine_of(working)
    network = await stack.enter_async_context(equipment.networks.adopt(record.network, spec.egress))
    role = stack.enter_context(microvm_present(network, equipment.roles, spec))
    with kept(network):
        jail = await stack.enter_async_context(equipment.jails.adopt(record.jail, record.identity))
        equipment.jails.give(jail, spec.microvm_id)
        stack.enter_context(jail.explained())
        machine = await stack.enter_async_context(
            equipment.vmm.adopt(machine_spec, MachineFiles(files.directory), record.identity)
        )
        with kept(network, machine):
            if await machine.status() is Status.PAUSED:
                working.retire()
                await machine.cont()
            guest = await _identified(
                stack, equipment, machine, spec.microvm_id, end_connections=not serving
            )
            await stack.enter_async_context(equipment.output_kept(guest, spec, role))
    connect = _connector(stack, equipment, machine, spec, role)
    return Running(network, jail, machine, guest, working, connect)


def _connector(
    stack: AsyncExitStack,
    equipment: Equipment,
    machine: Machine,
    spec: MicrovmSpec,
    role: RoleSession | None,
) -> Callable[[], Awaitable[GuestClient]]:
    async def connect() -> GuestClient:
        guest = await _identified(stack, equipment, machine, spec.microvm_id, end_connections=False)
        await stack.enter_async_context(equipment.output_kept(guest, spec, role))
        return guest

    return connect


async def _identified(
    stack: AsyncExitStack,
    equipment: Equipment,
    machine: Machine,
    microvm_id: str,
    *,
    end_connections: bool,
) -> GuestClient:
    """The agent of a guest that is proven to be this MicroVM and no copy. Raises NotUnique."""
    given = Given.of(microvm_id)
    agent = machine.agent
    guest, found = await stack.enter_async_context(
        connect_restored(agent, AGENT_LIMIT, **asdict(given), end_connections=end_connections)
    )
    # The clock was set to the time at which we asked. Where that is long ago, as on a machine that
    # is short of CPU, ask again: the guest is awake now. All else that this does is done already.
    for _ in range(CLOCK_TRIES):
        if time.time_ns() - found.unix_nanos <= CLOCK_TOLERANCE_NS:
            break
        found = await guest.restored(**asdict(given))
    equipment.uniqueness.prove(given, found)
    return guest
