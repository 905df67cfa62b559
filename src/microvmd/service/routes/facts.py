"""Answers to the service's own requests (``extensions.py``), from what serve has wired."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from microvmd.control.logs import own_group, run_log
from microvmd.control.lookups import version_of
from microvmd.control.microvms import MicroVms
from microvmd.control.store import Store, Transaction
from microvmd.edge.stats import CommandFailed
from microvmd.messages.node import LogTarget
from microvmd.messages.node_requests import LogLine, Vmm
from microvmd.model.errors import NotFound
from microvmd.model.microvm import MicroVm
from microvmd.service.routes.extensions import Health, MicrovmFacts, VmmFacts


class LogLines(Protocol):
    """Who reads logs: of one stream, or of all streams of a group."""

    def __call__(
        self, group: str, stream: str | None, *, follow: bool
    ) -> AsyncGenerator[LogLine, None]: ...


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """Implements ``extensions.Facts``."""

    account: str
    store: Store
    microvms: MicroVms
    log_lines: LogLines
    vmm_of: Callable[[str], Awaitable[Vmm | None]]
    """The VMM of a MicroVM, by its id, while it is alive."""
    ask_edge: Callable[[], Awaitable[object]]
    """Raises CommandFailed or OSError when the edge does not answer."""
    node_state: Callable[[], str] = lambda: "ok"
    """``ok``, or what is the matter with the node."""

    async def health(self) -> Health:
        checks = {"api": "ok", "edge": await self._edge(), "node": self.node_state()}
        return Health({**checks, "store": await self._store()})

    async def _edge(self) -> str:
        try:
            await self.ask_edge()
        except (CommandFailed, OSError) as error:
            return str(error)
        return "ok"

    async def _store(self) -> str:
        await self.store.run(lambda tx: tx.images(self.account, limit=1))
        return "ok"

    async def microvm(self, account: str, microvm_id: str) -> MicrovmFacts:
        microvm = await self.microvms.get(account, microvm_id)
        log = await self.store.run(lambda tx: _log_target(tx, microvm))
        return MicrovmFacts(
            microvm_id=microvm_id,
            state=microvm.state.value,
            generation=microvm.generation,
            log_group=log.group.removeprefix(own_group(account, "")),
            log_stream=log.stream,
            address=microvm.edge_address,
            vmm=await self._vmm(microvm_id),
            timings=_plain(self.microvms.timings(microvm_id)),
            memory_mib=microvm.memory_mib,
            image_bytes=microvm.image_bytes,
            stored_bytes=microvm.stored_bytes,
        )

    async def _vmm(self, microvm_id: str) -> VmmFacts | None:
        found = await self.vmm_of(microvm_id)
        return None if found is None else VmmFacts(found.pid, found.start_time, found.pss_bytes)

    async def logs(
        self, account: str, group: str, stream: str | None, *, since: float, follow: bool
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of one stream, or of all streams of the account's group."""
        group = own_group(account, group)
        async with aclosing(self.log_lines(group, stream, follow=follow)) as lines:
            async for line in lines:
                if line.time >= since:
                    yield line


def _plain(timings: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {step: dict(parts) for step, parts in timings.items()}


def _log_target(tx: Transaction, microvm: MicroVm) -> LogTarget:
    version = version_of(tx, microvm)
    if version is None:
        raise NotFound(f"MicroVM not found: {microvm.microvm_id}")
    return run_log(microvm, version)
