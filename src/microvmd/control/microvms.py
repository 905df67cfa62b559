"""Run, suspend, resume, terminate: load, ``apply``, save, then the effects.

Decisions about one MicroVM are taken one at a time (a lock each), so that their effects on the
edge and the node come in the order of the decisions.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import structlog

from microvmd.control import tracing
from microvmd.control.acting import acting
from microvmd.control.admission import Admission
from microvmd.control.egress import ConnectorUse
from microvmd.control.keys import KeyGate
from microvmd.control.lookups import version_of
from microvmd.control.managed import ManagedImages
from microvmd.control.paging import DEFAULT_PAGE, Cursors, Page
from microvmd.control.replay import remember, replayed
from microvmd.control.roles import AssumableRoles
from microvmd.control.runnable import choose_version, spec_of
from microvmd.control.store import Store, Transaction
from microvmd.messages.node import (
    Died,
    MicrovmSpec,
    Node,
    ResumeFailed,
    ResumeMicrovm,
    Started,
    StartMicrovm,
    Suspended,
    SuspendFailed,
    SuspendMicrovm,
    Terminated,
    TerminateMicrovm,
)
from microvmd.model.connector import allows_http, resolve_egress, resolve_ingress
from microvmd.model.egress import EgressMap
from microvmd.model.errors import ApiError, NotFound, StoreUnavailable
from microvmd.model.event import Actor, ActorKind
from microvmd.model.identifiers import (
    ImageArn,
    new_endpoint_id,
    new_microvm_id,
)
from microvmd.model.idle import due
from microvmd.model.image import Logging, Version
from microvmd.model.microvm import (
    DEFAULT_DURATION_S,
    Effect,
    Event,
    IdlePolicy,
    MicroVm,
    Phase,
    Told,
    apply,
    ended,
)

MicrovmReport = Started | Suspended | SuspendFailed | ResumeFailed | Died | Terminated

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Routes(Protocol):
    """The edge's map, as control sees it."""

    async def add(self, endpoint_id: str, address: str) -> None:
        """Requests to this endpoint go there from now on."""

    async def remove(self, endpoint_id: str) -> object:
        """Requests are held or refused from now on; open connections end."""


@dataclass(frozen=True, slots=True)
class Routable:
    """Where an endpoint's requests go now; None = nowhere, and ``known`` tells the two refusals."""

    address: str | None
    known: bool = True
    allowed: bool = True
    microvm_id: str | None = None


class MicroVms:
    """All decisions about MicroVMs. ``clock`` gives wall-clock seconds."""

    def __init__(
        self,
        store: Store,
        node: Node,
        routes: Routes,
        cursors: Cursors,
        clock: Callable[[], float],
        managed: ManagedImages,
        networks: EgressMap | None = None,
        roles: AssumableRoles | None = None,
        keys: KeyGate | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._store = store
        self._node = node
        self._routes = routes
        self._cursors = cursors
        self._clock = clock
        self._region = managed.region
        self._managed = managed
        self.use = ConnectorUse(managed.region, networks or EgressMap())
        self._roles = roles or AssumableRoles()
        self._keys = keys or KeyGate()
        self._admission = admission or Admission()
        self._live: dict[str, MicroVm] = {}
        self._timings: dict[str, dict[str, Mapping[str, float]]] = {}
        self.traces = tracing.Starts()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed: dict[str, asyncio.Event] = {}
        self._tasks = asyncio.TaskGroup()
        self.any_change = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._tasks.__aexit__(kind, error, trace)

    async def run(self, account: str, request: Mapping[str, Any]) -> MicroVm:
        """RunMicrovm: PENDING is committed, the node begins. Replays by client token."""
        return await self._own(
            self._keys.granted(lambda proven: self._run(account, request, proven))
        )

    async def _run(self, account: str, request: Mapping[str, Any], proven: bool) -> MicroVm:
        arn = ImageArn.parse_run(request["imageIdentifier"])
        ingress = resolve_ingress(request.get("ingressNetworkConnectors"), self._region)
        egress = resolve_egress(request.get("egressNetworkConnectors"), self._region)
        await self._roles.check_execution(account, request.get("executionRoleArn"))
        now = self._clock()

        def decide(tx: Transaction) -> tuple[MicroVm, MicrovmSpec | None]:
            made = replayed(tx, account, "RunMicrovm", request)
            if made is not None:
                return _owned(tx, account, made), None
            version = choose_version(tx, account, arn, request, self._managed)
            microvm = MicroVm(
                microvm_id=new_microvm_id(),
                account=account,
                endpoint_id=new_endpoint_id(),
                image_arn=str(arn),
                image_version=str(version.number),
                phase=Phase.PENDING,
                generation=1,
                started_at=now,
                memory_mib=version.config.memory_mib,
                snapshot=version.snapshot,
                image_bytes=version.restored_bytes,
                maximum_duration_s=request.get("maximumDurationInSeconds") or DEFAULT_DURATION_S,
                idle_policy=IdlePolicy.from_request(request.get("idlePolicy")),
                ingress=ingress,
                egress=egress,
                grants=self.use.pin(tx, account, egress),
                execution_role_arn=request.get("executionRoleArn"),
                logging=Logging.from_request(request.get("logging")),
                kms_key=request.get("kmsKeyIdentifier"),
                run_hook_payload=request.get("runHookPayload"),
            )
            spec = self._spec(tx, microvm, version)
            self._keys.demand(spec, proven=proven)
            self._admission.check_run(tx, account, microvm.memory_mib)
            tx.add_microvm(microvm)
            remember(tx, account, "RunMicrovm", request, microvm.microvm_id, now)
            return microvm, spec

        with tracing.span("decide RunMicrovm"):
            microvm, spec = await self._store.run(decide)
        if spec is not None:
            self._note(microvm)
            await self._node.send(StartMicrovm(spec))
        elif microvm.phase is Phase.SUSPENDED:
            # Recorded: a replay of a suspended MicroVM's token resumes it.
            microvm = await self._decide(microvm.microvm_id, Event.RESUME_REQUESTED)
        return microvm

    async def get(self, account: str, microvm_id: str) -> MicroVm:
        live = self._live.get(microvm_id)
        if live is not None and live.account == account:
            return live
        return await self._store.run(lambda tx: _owned(tx, account, microvm_id))

    async def list_microvms(
        self,
        account: str,
        *,
        image_identifier: str | None = None,
        image_version: str | None = None,
        max_results: int | None = None,
        next_token: str | None = None,
    ) -> Page[MicroVm]:
        """Newest first, terminated ones included (recorded)."""
        arn = None if image_identifier is None else str(ImageArn.parse(image_identifier))
        scope = f"microvms {account} {arn} {image_version}"
        before = self._cursors.open(scope, next_token)
        limit = max_results or DEFAULT_PAGE
        found = await self._store.run(
            lambda tx: tx.microvms(
                account,
                image_arn=arn,
                image_version=image_version,
                before=None if before is None else int(before),
                limit=limit + 1,
            )
        )
        page = found[:limit]
        more = self._cursors.seal(scope, page[-1][0]) if len(found) > limit else None
        return Page([microvm for _, microvm in page], more)

    async def suspend(self, account: str, microvm_id: str) -> None:
        await self._asked(account, microvm_id, Event.SUSPEND_REQUESTED)

    async def resume(self, account: str, microvm_id: str) -> None:
        await self.get(account, microvm_id)
        await self._keys.granted(
            lambda proven: self._decide(microvm_id, Event.RESUME_REQUESTED, key_proven=proven)
        )

    async def start_again(self, microvm_id: str, told: Told) -> None:
        """One that is PENDING, from another snapshot of its version."""
        await self._decide(microvm_id, Event.REBUILT, told)

    async def terminate(self, account: str, microvm_id: str) -> None:
        await self._asked(account, microvm_id, Event.TERMINATE_REQUESTED)

    async def change_egress(self, account: str, microvm_id: str, arns: Sequence[str]) -> MicroVm:
        """Other egress connectors, in the versions of now; ``control.egress_change`` tells the
        node."""
        egress = resolve_egress(arns, self._region)

        def decide(tx: Transaction) -> MicroVm:
            before = _owned(tx, account, microvm_id)
            if not before.phase.live:
                raise ended(before)
            after = replace(before, egress=egress, grants=self.use.pin(tx, account, egress))
            tx.save_microvm(after)
            return after

        async with self._locks[microvm_id]:
            microvm = await self._store.run(decide)
            if (live := self._live.get(microvm_id)) is not None:
                self._note(replace(microvm, active_at=live.active_at))
        return microvm

    async def report(self, report: MicrovmReport) -> None:
        """What a node says; reports of an older generation change nothing."""
        event, told = _told(report)
        live = self._live.get(report.microvm_id)
        stale = live is None or live.generation != report.generation
        if not stale:
            # Before the decision: who sees the new state finds its timings.
            self._note_timings(report)
        with self.traces.caused_by(report, stale=stale):
            await self._decide(report.microvm_id, event, told)

    async def route_to(
        self, endpoint_id: str, allows: Callable[[Sequence[str]], bool] = allows_http
    ) -> Routable:
        """Where a request to this endpoint goes: waits while the MicroVM starts or resumes.

        A request to a SUSPENDED MicroVM with auto-resume resumes it, once; if that fails the
        request is refused. ``allows`` is asked about the MicroVM's ingress connectors.
        """
        found = await self._store.run(lambda tx: tx.microvm_at(endpoint_id))
        if found is None:
            return Routable(None, known=False)
        if not allows(found.ingress):
            return Routable(None, allowed=False)
        resumed = False
        held: float | None = None
        while True:
            microvm = self._live.get(found.microvm_id)
            if microvm is None or not microvm.phase.live:
                return Routable(None)
            if microvm.phase is Phase.RUNNING:
                if held is not None:
                    self.traces.held(microvm.microvm_id, held, self._clock())
                return Routable(microvm.edge_address, microvm_id=microvm.microvm_id)
            held = held or self._clock()
            if microvm.phase is Phase.SUSPENDED:
                policy = microvm.idle_policy
                if resumed or policy is None or not policy.auto_resume:
                    return Routable(None)
                resumed = True
                with suppress(ApiError, StoreUnavailable), acting(Actor(ActorKind.REQUEST)):
                    await self._decide(microvm.microvm_id, Event.RESUME_REQUESTED)
                continue
            await self._changed.setdefault(microvm.microvm_id, asyncio.Event()).wait()

    def live(self) -> list[MicroVm]:
        """Every MicroVM that is not TERMINATED."""
        return list(self._live.values())

    def timings(self, microvm_id: str) -> Mapping[str, Mapping[str, float]]:
        """Steps of the last start and suspend, in ms, as the node measured them."""
        return self._timings.get(microvm_id, {})

    def saw_activity(self, endpoint_ids: Collection[str], now: float) -> None:
        """Bytes went through these endpoints: their idle clocks start anew."""
        for microvm in self.live():
            if microvm.endpoint_id in endpoint_ids and microvm.phase is Phase.RUNNING:
                self._live[microvm.microvm_id] = replace(microvm, active_at=now)

    async def apply_due(self, now: float) -> None:
        """Suspend what is idle, end what has expired."""
        for microvm in self.live():
            found = due(microvm, now)
            if found is not None:
                with suppress(ApiError), acting(Actor(ActorKind.POLICY)):
                    await self._decide(microvm.microvm_id, found.event, Told(reason=found.cause))

    async def load_after_restart(self) -> list[tuple[MicroVm, MicrovmSpec]]:
        """Every MicroVM that is not TERMINATED; those that are not in the live set come into it.

        Those that are know more than the record: when they were active.
        """

        def read(tx: Transaction) -> list[tuple[MicroVm, MicrovmSpec]]:
            specs = [(vm, self._spec_again(tx, vm)) for vm in tx.microvms_not_terminated()]
            return [(vm, spec) for vm, spec in specs if spec is not None]

        found = await self._store.run(read)
        for microvm, _ in found:
            if microvm.microvm_id not in self._live:
                self._note(microvm)
        return found

    async def _asked(self, account: str, microvm_id: str, event: Event) -> None:
        await self.get(account, microvm_id)
        await self._decide(microvm_id, event)

    async def _decide(
        self,
        microvm_id: str,
        event: Event,
        told: Told = Told(),  # noqa: B008 - frozen
        *,
        key_proven: bool = True,
    ) -> MicroVm:
        return await self._own(self._decided(microvm_id, event, told, key_proven))

    async def _own(self, deciding: Coroutine[Any, Any, T]) -> T:
        """Decide in a task of our own; an error is the caller's and no fault of the others.

        A caller that goes away between the commit and the effects (a client that hangs up while
        its request is held) must not lose the effects.
        """
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tasks.create_task(_tell(deciding, outcome))
        return await outcome

    async def _decided(
        self, microvm_id: str, event: Event, told: Told, key_proven: bool
    ) -> MicroVm:
        Decision = tuple[MicroVm, bool, tuple[Effect, ...], MicrovmSpec | None]

        def decide(tx: Transaction) -> Decision:
            before = tx.microvm(microvm_id)
            if before is None:
                raise _not_found(microvm_id)
            after, effects = apply(before, event, self._clock(), told)
            begins = Effect.RESUME in effects or Effect.START in effects
            spec = self._spec_again(tx, after) if begins else None
            self._keys.demand(spec, proven=key_proven)
            if Effect.RESUME in effects:
                self._admission.check_resume(tx, microvm_id, after.memory_mib)
            if after is not before:
                tx.save_microvm(after)
            return after, after is not before, effects, spec

        async with self._locks[microvm_id]:
            with tracing.span(f"decide {event}"):
                microvm, changed, effects, spec = await self._store.run(decide)
            if changed:
                self._note(microvm)
            for effect in effects:
                await self._perform(effect, microvm, spec)
        if microvm.phase is Phase.TERMINATED:
            self._locks.pop(microvm_id, None)
        return microvm

    async def _perform(self, effect: Effect, microvm: MicroVm, spec: MicrovmSpec | None) -> None:
        match effect:
            case Effect.ROUTE:
                if microvm.edge_address is not None and allows_http(microvm.ingress):
                    await self._routes.add(microvm.endpoint_id, microvm.edge_address)
            case Effect.UNROUTE:
                await self._routes.remove(microvm.endpoint_id)
            case Effect.SUSPEND:
                await self._node.send(SuspendMicrovm(microvm.microvm_id, microvm.generation))
            case Effect.TERMINATE:
                await self._node.send(TerminateMicrovm(microvm.microvm_id, microvm.generation))
            case Effect.START:
                assert spec is not None
                await self._node.send(StartMicrovm(spec))
            case Effect.RESUME:
                assert spec is not None
                await self._node.send(ResumeMicrovm(spec))

    def _spec_again(self, tx: Transaction, microvm: MicroVm) -> MicrovmSpec | None:
        version = version_of(tx, microvm)
        return None if version is None else self._spec(tx, microvm, version)

    def _spec(self, tx: Transaction, microvm: MicroVm, version: Version) -> MicrovmSpec:
        spec = spec_of(microvm, version, self.use.opened(tx, microvm.egress, microvm.grants))
        return replace(spec, cause=tracing.cause())

    def _note_timings(self, report: MicrovmReport) -> None:
        if isinstance(report, Started | Suspended):
            event, _ = _told(report)
            self._timings.setdefault(report.microvm_id, {})[event.value] = report.timings

    def _note(self, microvm: MicroVm) -> None:
        if microvm.phase is Phase.TERMINATED:
            self._live.pop(microvm.microvm_id, None)
            self._timings.pop(microvm.microvm_id, None)
            self.traces.forget(microvm.microvm_id)
        else:
            self._live[microvm.microvm_id] = microvm
        changed = self._changed.pop(microvm.microvm_id, None)
        if changed is not None:
            changed.set()
        self.any_change.set()
        log.info(
            "microvm",
            microvm_id=microvm.microvm_id,
            phase=microvm.phase,
            reason=microvm.state_reason,
        )


async def _tell(deciding: Coroutine[Any, Any, T], outcome: "asyncio.Future[T]") -> None:
    try:
        decided = await deciding
    except Exception as error:
        if outcome.done():
            log.exception("microvm.decision_failed")
        else:
            outcome.set_exception(error)
    else:
        if not outcome.done():
            outcome.set_result(decided)


def _told(report: MicrovmReport) -> tuple[Event, Told]:
    told = Told(report.generation)
    match report:
        case Started():
            return Event.STARTED, replace(told, edge_address=report.edge_address)
        case Suspended():
            return Event.SUSPENDED, replace(told, stored_bytes=report.stored_bytes)
        case SuspendFailed():
            back = replace(told, reason=report.reason, edge_address=report.edge_address)
            return Event.SUSPEND_FAILED, back
        case ResumeFailed():
            return Event.RESUME_FAILED, replace(told, reason=report.reason)
        case Died():
            return Event.DIED, replace(told, reason=report.reason)
        case Terminated():
            return Event.TERMINATED, told


def _not_found(microvm_id: str) -> NotFound:
    return NotFound(f"MicroVM not found: {microvm_id}")


def _owned(tx: Transaction, account: str, microvm_id: str) -> MicroVm:
    microvm = tx.microvm(microvm_id)
    if microvm is None or microvm.account != account:
        raise _not_found(microvm_id)
    return microvm
