"""What a MicroVM may reach, while it lives: shown, changed by its owner, and by a new mapping.

A change is recorded first and then made by the node in one step. The caller is answered when the
node has done it; where it cannot, the record holds from the next start or resume on.
"""

import asyncio

import structlog

from microvmd.control.connectors import Connectors
from microvmd.control.images import Images
from microvmd.control.microvms import MicroVms
from microvmd.control.store import Store
from microvmd.messages.node import ChangeEgress, EgressChanged, Node
from microvmd.model.egress import Egress, EgressMap
from microvmd.model.errors import Conflict
from microvmd.model.microvm import MicroVm, Phase

log = structlog.get_logger(__name__)

ANSWER_LIMIT = 30.0
"""Seconds that the node has."""
_ON_NODE = (Phase.PENDING, Phase.RUNNING, Phase.SUSPENDING, Phase.RESUMING)


class EgressChanges:
    """One service's. ``node`` carries out what is decided here."""

    def __init__(self, store: Store, node: Node, microvms: MicroVms) -> None:
        self._store = store
        self._node = node
        self._microvms = microvms
        self._lock = asyncio.Lock()
        self._asked: dict[tuple[str, int], asyncio.Future[str | None]] = {}

    async def show(self, account: str, microvm_id: str) -> tuple[MicroVm, Egress]:
        """The MicroVM and what its connectors open by the mapping of now."""
        microvm = await self._microvms.get(account, microvm_id)
        return microvm, await self._opened(microvm)

    async def change(
        self, account: str, microvm_id: str, arns: list[str]
    ) -> tuple[MicroVm, Egress]:
        """Give a MicroVM other connectors. Raises what RunMicrovm would, and Conflict when the
        node could not do it."""
        async with self._lock:
            microvm = await self._microvms.change_egress(account, microvm_id, arns)
            error = await self._told(microvm)
        if error is not None:
            raise Conflict(
                f"MicroVM {microvm_id} keeps to what it had until it is resumed: {error}"
            )
        return microvm, await self._opened(microvm)

    async def remap(self, networks: EgressMap, images: Images, connectors: Connectors) -> int:
        """Another mapping by the operator, for every MicroVM that lives; how many were told."""
        async with self._lock:
            for part in (self._microvms.use, images, connectors):
                part.remap(networks)
            told = [
                (microvm, await self._told(microvm))
                for microvm in self._microvms.live()
                if microvm.phase in _ON_NODE
            ]
        for microvm, error in told:
            if error is not None:
                log.error("egress.not_changed", id=microvm.microvm_id, error=error)
        log.info("egress.remapped", microvms=len(told))
        return len(told)

    async def report(self, report: EgressChanged) -> None:
        """What the node says."""
        asked = self._asked.get((report.microvm_id, report.generation))
        if asked is not None and not asked.done():
            asked.set_result(report.error)

    async def _opened(self, microvm: MicroVm) -> Egress:
        use = self._microvms.use
        return await self._store.run(lambda tx: use.opened(tx, microvm.egress, microvm.grants))

    async def _told(self, microvm: MicroVm) -> str | None:
        """Why the node did not change it; None when it did, or when there is nothing to change."""
        if microvm.phase not in _ON_NODE:
            return None
        key = microvm.microvm_id, microvm.generation
        egress = await self._opened(microvm)
        self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            await self._node.send(ChangeEgress(*key, egress))
            async with asyncio.timeout(ANSWER_LIMIT):
                return await self._asked[key]
        except TimeoutError:
            return "its node does not answer"
        finally:
            del self._asked[key]
