"""The control plane as ``serve`` wires it: its services, and their way to the node."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from microvmd.control.acting import acting
from microvmd.control.admission import Admission
from microvmd.control.capacity import Capacity
from microvmd.control.connectors import Connectors
from microvmd.control.egress_change import EgressChanges
from microvmd.control.images import Images
from microvmd.control.insist import insist
from microvmd.control.keys import KeyGate
from microvmd.control.managed import ManagedImages
from microvmd.control.microvms import MicroVms, Routes
from microvmd.control.paging import Cursors
from microvmd.control.rebuilds import Rebuilds
from microvmd.control.reconcile import adopt_all, inventory
from microvmd.control.roles import AssumableRoles
from microvmd.control.store import Store
from microvmd.messages.capacity import Meter
from microvmd.messages.node import (
    BuildFailed,
    BuildStarted,
    BuildSucceeded,
    ConnectorProvisioned,
    ConnectorRevoked,
    Died,
    EgressChanged,
    Inventory,
    MicrovmSpec,
    Node,
    Report,
    Terminated,
    Unfit,
    VersionDeleted,
)
from microvmd.model.egress import EgressMap
from microvmd.model.event import Actor, ActorKind
from microvmd.service.keys import cursor_key
from microvmd.settings.settings import Settings


@dataclass(slots=True)
class ControlPlane:
    """What reports of the node, and requests of the API and the edge, are handed to.

    Implements ``node_client.Plane``.
    """

    managed: ManagedImages
    images: Images
    microvms: MicroVms
    connectors: Connectors
    admission: Admission
    egress: EgressChanges
    rebuilds: Rebuilds
    seen: Callable[[Report], None] = lambda _: None
    """Told each report before it is acted on."""

    async def remap(self, networks: EgressMap) -> int:
        """Another mapping of subnets and security groups; how many MicroVMs were told."""
        return await self.egress.remap(networks, self.images, self.connectors)

    async def inventory(self) -> Inventory:
        return await inventory(self.images, self.microvms)

    async def adopt(self, node: Node, waits: Callable[[MicrovmSpec], bool]) -> None:
        await adopt_all(self.microvms, node, waits)
        await self.connectors.go_on_after_restart()

    async def report(self, report: Report) -> None:
        """Hand over what the node says; returns when the record has it, however long that takes."""
        self.seen(report)
        with acting(Actor(ActorKind.NODE)):
            await insist(lambda: self._reported(report), type(report).__name__)

    async def _reported(self, report: Report) -> None:
        match report:
            case BuildStarted() | BuildSucceeded() | BuildFailed():
                await self.images.report(report)
                await self.rebuilds.settle(report.version)
            case VersionDeleted():
                await self.images.report_deleted(report)
            case ConnectorProvisioned() | ConnectorRevoked():
                await self.connectors.report(report)
            case EgressChanged():
                await self.egress.report(report)
            case Unfit():
                await self.rebuilds.unfit(report)
            case Died() | Terminated():
                await self.microvms.report(report)
                await self.rebuilds.left(report.microvm_id)
            case _:
                await self.microvms.report(report)


@asynccontextmanager
async def control_plane(
    settings: Settings,
    store: Store,
    node: Node,
    routes: Routes,
    roles: AssumableRoles,
    keys: KeyGate,
    meter: Meter | None = None,
    seen: Callable[[Report], None] = lambda _: None,
) -> AsyncIterator[ControlPlane]:
    """All services, until the context ends."""
    cursors = Cursors(cursor_key(settings.root / "keys"))
    managed = ManagedImages(settings.region, settings.image.base_status)
    networks = settings.network.egress_map
    admission = Admission(settings.limits.quotas, Capacity(settings.limits.capacity, meter))
    sizes = settings.image.sizes
    async with MicroVms(
        store, node, routes, cursors, time.time, managed, networks, roles, keys, admission
    ) as microvms:
        images = Images(store, node, cursors, time.time, managed, sizes, networks, roles, admission)
        connectors = Connectors(
            store,
            node,
            cursors,
            time.time,
            settings.region,
            networks=networks,
            limits=settings.network.connector_limits,
        )
        egress = EgressChanges(store, node, microvms)
        rebuilds = Rebuilds(store, node, microvms, time.time, microvms.use, admission)
        yield ControlPlane(managed, images, microvms, connectors, admission, egress, rebuilds, seen)
