"""Answers to the service's own requests (``cli/extensions.py``), from what serve has wired."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from microvmd.cli.extensions import Health, LogLine, MicrovmFacts, VmmFacts
from microvmd.control.logs import own_group, run_log
from microvmd.control.microvms import MicroVms
from microvmd.control.store import Store, Transaction
from microvmd.edge.stats import CommandFailed
from microvmd.messages.node import LogTarget
from microvmd.model.errors import NotFound
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.microvm import MicroVm
from microvmd.node.bring_up import VmmRecord
from microvmd.node.logs import LogStore


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """Implements ``extensions.Facts``."""

    account: str
    store: Store
    microvms: MicroVms
    log_store: LogStore
    vmm_of: Callable[[str], VmmRecord | None]
    """The VMM of a MicroVM, by its id, while it is alive."""
    ask_edge: Callable[[], Awaitable[object]]
    """Raises CommandFailed or OSError when the edge does not answer."""

    async def health(self) -> Health:
        return Health({"api": "ok", "edge": await self._edge(), "store": await self._store()})

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
            vmm=self._vmm(microvm_id),
            timings=_plain(self.microvms.timings(microvm_id)),
        )

    def _vmm(self, microvm_id: str) -> VmmFacts | None:
        record = self.vmm_of(microvm_id)
        if record is None:
            return None
        identity = record.identity
        return VmmFacts(identity.pid, identity.start_time, _pss(identity.pid))

    async def logs(
        self, account: str, group: str, stream: str | None, *, since: float, follow: bool
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of one stream, or of all streams of the account's group."""
        group = own_group(account, group)
        if stream is None:
            lines = self._follow_group(group) if follow else self._read_group(group)
        else:
            lines = self._follow(group, stream) if follow else self._read(group, stream)
        async with aclosing(lines):
            async for line in lines:
                if line.time >= since:
                    yield line

    async def _follow(self, group: str, stream: str) -> AsyncGenerator[LogLine, None]:
        async with aclosing(self.log_store.follow(group, stream)) as entries:
            async for entry in entries:
                yield LogLine(entry.time, stream, entry.text)

    async def _follow_group(self, group: str) -> AsyncGenerator[LogLine, None]:
        async with aclosing(self.log_store.follow_group(group)) as entries:
            async for stream, entry in entries:
                yield LogLine(entry.time, stream, entry.text)

    async def _read(self, group: str, stream: str) -> AsyncGenerator[LogLine, None]:
        await self.log_store.flush()
        page = await self.log_store.read(group, stream)
        while page.entries:
            for entry in page.entries:
                yield LogLine(entry.time, stream, entry.text)
            page = await self.log_store.read(group, stream, page.next)

    async def _read_group(self, group: str) -> AsyncGenerator[LogLine, None]:
        await self.log_store.flush()
        for stream in await self.log_store.streams(group):
            async with aclosing(self._read(group, stream)) as lines:
                async for line in lines:
                    yield line


def _plain(timings: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {step: dict(parts) for step, parts in timings.items()}


def _log_target(tx: Transaction, microvm: MicroVm) -> LogTarget:
    arn = ImageArn.parse(microvm.image_arn)
    version = tx.version(arn.account, arn.name, ImageVersion.parse(microvm.image_version))
    if version is None:
        raise NotFound(f"MicroVM not found: {microvm.microvm_id}")
    return run_log(microvm, version)


def _pss(pid: int) -> int | None:
    """Proportional share of memory in bytes, None when the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in lines:
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
