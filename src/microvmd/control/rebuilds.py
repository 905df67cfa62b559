"""Versions that are built again for what their node has become, and the MicroVMs that wait for it.

``model.rebuild`` decides; one transaction each, so that however many runs ask, one build begins.
What a restart cuts off needs nothing of its own: the build is FAILED as interrupted, the node is
told of the PENDING MicroVMs again, and the first that does not fit begins another build.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from microvmd.control.admission import Admission
from microvmd.control.building import build_command, key_of, new_build
from microvmd.control.egress import ConnectorUse
from microvmd.control.images import FULL
from microvmd.control.lookups import version_at, version_of
from microvmd.control.microvms import MicroVms
from microvmd.control.store import Store, Transaction
from microvmd.messages.node import (
    BuildVersion,
    Died,
    FreeSnapshot,
    Node,
    Unfit,
    VersionKey,
)
from microvmd.model.identifiers import ImageArn
from microvmd.model.image import BuildEvent, BuildState, Version, VersionState
from microvmd.model.microvm import Event, MicroVm, Phase, Told, apply
from microvmd.model.rebuild import (
    Answer,
    Step,
    answer,
    apply_rebuild,
    begun,
    failure,
    fitted,
    freed,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Decided:
    """What follows for a MicroVM of ``version``, and the build that begins for it."""

    answer: Answer
    version: Version | None = None
    command: BuildVersion | None = None


_NOTHING = _Decided(Answer(Step.WAIT))


class Rebuilds:
    """``clock`` gives wall-clock seconds."""

    def __init__(
        self,
        store: Store,
        node: Node,
        microvms: MicroVms,
        clock: Callable[[], float],
        use: ConnectorUse,
        admission: Admission | None = None,
    ) -> None:
        self._store = store
        self._node = node
        self._microvms = microvms
        self._clock = clock
        self._use = use
        self._admission = admission or Admission()

    async def unfit(self, report: Unfit) -> None:
        """A MicroVM was not started, since its node cannot restore the snapshot."""
        now = self._clock()
        decided = await self._store.run(lambda tx: self._decide(tx, report, now))
        match decided.answer.step:
            case Step.START_AGAIN:
                assert decided.version is not None
                await self._start_again(report.microvm_id, report.generation, decided.version)
                await self._free(key_of(decided.version))
            case Step.END:
                reason = decided.answer.reason or report.reason
                await self._microvms.report(Died(report.microvm_id, report.generation, reason))
                await self.left(report.microvm_id)
            case Step.BUILD:
                assert decided.command is not None
                log.info(
                    "version.rebuild",
                    version=str(decided.command.version),
                    build_id=decided.command.build_id,
                    reason=report.reason,
                )
                await self._node.send(decided.command)

    async def settle(self, key: VersionKey) -> None:
        """A build of this version has ended: who waited for it goes on, or ends."""
        version, waiting = await self._store.run(lambda tx: _after(tx, key))
        if version is None:
            return
        newest = version.rebuilds[-1]
        for microvm in waiting:
            if newest.state is BuildState.SUCCESSFUL:
                await self._start_again(microvm.microvm_id, microvm.generation, version)
            elif newest.state is BuildState.FAILED:
                reason = failure(newest)
                await self._microvms.report(Died(microvm.microvm_id, microvm.generation, reason))
        await self._free(key)

    async def left(self, microvm_id: str) -> None:
        """A MicroVM is gone: an older snapshot that only it needed goes, too."""
        key = await self._store.run(lambda tx: _older(tx, microvm_id))
        if key is not None:
            await self._free(key)

    async def _free(self, key: VersionKey) -> None:
        """Remove the snapshots of a version that no MicroVM is started from, nor was."""
        for one in await self._store.run(lambda tx: _take_idle(tx, key)):
            await self._node.send(FreeSnapshot(one))

    def _decide(self, tx: Transaction, report: Unfit, now: float) -> _Decided:
        microvm = tx.microvm(report.microvm_id)
        if (
            microvm is None
            or microvm.generation != report.generation
            or microvm.phase is not Phase.PENDING
        ):
            return _NOTHING
        arn = ImageArn.parse(microvm.image_arn)
        version = version_of(tx, microvm)
        image = tx.image(arn.account, arn.name)
        if version is None or image is None:
            return _Decided(Answer(Step.END))
        before, version = version, fitted(version, microvm, report.fits)
        if version is not before:
            tx.save_version(version)
        found = answer(version, microvm, now)
        if found.step is Step.BUILD:
            build = new_build(now)
            version = begun(version, build)
            if not self._admission.has_room_to_build(tx, version.config.memory_mib):
                failed = apply_rebuild(version, build.build_id, BuildEvent.FAILED, now, reason=FULL)
                tx.save_version(failed or version)
                return _Decided(Answer(Step.END, failure(replace(build, reason=FULL))))
            tx.save_version(version)
            self._waits(tx, microvm, now)
            return _Decided(found, version, build_command(tx, self._use, image, version, build))
        if found.step is Step.WAIT:
            self._waits(tx, microvm, now)
        return _Decided(found, version)

    def _waits(self, tx: Transaction, microvm: MicroVm, now: float) -> None:
        after, _ = apply(microvm, Event.UNFIT, now)
        tx.save_microvm(after)

    async def _start_again(self, microvm_id: str, generation: int, version: Version) -> None:
        """Once, if it is told twice: the generation is another one then."""
        told = Told(generation, snapshot=version.snapshot, image_bytes=version.restored_bytes)
        await self._microvms.start_again(microvm_id, told)


def _users(tx: Transaction, version: Version) -> list[MicroVm]:
    return [
        microvm
        for microvm in tx.microvms_not_terminated()
        if microvm.account == version.account
        and ImageArn.parse(microvm.image_arn).name == version.image_name
        and microvm.image_version == str(version.number)
    ]


def _after(tx: Transaction, key: VersionKey) -> tuple[Version | None, list[MicroVm]]:
    """A version that was built again, and who waits for it."""
    version = version_at(tx, key)
    if version is None or not version.rebuilds or version.rebuilding:
        return None, []
    users = _users(tx, version)
    return version, [one for one in users if one.waits and one.phase is Phase.PENDING]


def _take_idle(tx: Transaction, key: VersionKey) -> list[VersionKey]:
    """They are no longer kept from this transaction on: nothing is started from them."""
    version = version_at(tx, key)
    if version is None or version.state is not VersionState.SUCCESSFUL:
        return []
    after, names = freed(version, {one.snapshot for one in _users(tx, version)})
    if names:
        tx.save_version(after)
    return [key_of(version, name) for name in names]


def _older(tx: Transaction, microvm_id: str) -> VersionKey | None:
    """The snapshot of a MicroVM, where it is not the one that others are started from now."""
    microvm = tx.microvm(microvm_id)
    version = None if microvm is None else version_of(tx, microvm)
    if microvm is None or version is None or microvm.snapshot == version.snapshot:
        return None
    return key_of(version, microvm.snapshot)
