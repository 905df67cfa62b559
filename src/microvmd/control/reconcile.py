"""Make reality match the record: what is due by the clock, and what a restart left behind."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import structlog

from microvmd.control.images import Images
from microvmd.control.microvms import MicroVms
from microvmd.messages.node import AdoptMicrovm, Inventory, MicrovmSpec, Node, TerminateMicrovm
from microvmd.model.idle import next_look
from microvmd.model.microvm import MicroVm, Phase

log = structlog.get_logger(__name__)

# How often activity is read while a MicroVM with an idle policy runs. The shortest policy is 60 s.
ACTIVITY_INTERVAL_S = 2.0

Activity = Callable[[], Awaitable[Mapping[str, int]]]


async def inventory(images: Images, microvms: MicroVms) -> Inventory:
    """What the node must keep after a restart; builds in flight are FAILED by this.

    An older snapshot of a version is kept for the MicroVMs that were started from it.
    """
    versions = await images.settle_after_restart()
    alive = await microvms.load_after_restart()
    used = frozenset(spec.version for _, spec in alive)
    return Inventory(frozenset(vm.microvm_id for vm, _ in alive), frozenset(versions) | used)


async def adopt_all(
    microvms: MicroVms, node: Node, waits: Callable[[MicrovmSpec], bool] = lambda _: False
) -> None:
    """Ask the node to take over whatever its last process left; the reports settle the rest.

    ``waits`` tells of starts and resumes that no node has been told of yet.
    """
    for microvm, spec in await microvms.load_after_restart():
        if waits(spec):
            continue
        if microvm.phase is Phase.TERMINATING:
            await node.send(TerminateMicrovm(microvm.microvm_id, microvm.generation))
        elif microvm.phase.on_node:
            await node.send(AdoptMicrovm(spec, microvm.phase))


async def watch(microvms: MicroVms, activity: Activity, clock: Callable[[], float]) -> None:
    """Run for ever: idle, suspended and maximum durations.

    ``activity`` gives bytes so far for each endpoint id; any growth is activity.
    """
    seen: dict[str, int] = {}
    while True:
        microvms.any_change.clear()
        live = microvms.live()
        if any(_may_idle(microvm) for microvm in live):
            seen = await _note_activity(microvms, activity, seen, clock())
        await microvms.apply_due(clock())
        await _next(microvms, clock())


async def _note_activity(
    microvms: MicroVms, activity: Activity, seen: Mapping[str, int], now: float
) -> dict[str, int]:
    try:
        counts = await activity()
    except OSError as error:
        # The edge is being restarted: nobody is idle for certain, so nothing is suspended for it.
        log.warning("activity unreadable", error=str(error))
        microvms.saw_activity({microvm.endpoint_id for microvm in microvms.live()}, now)
        return dict(seen)
    grown = {name for name, count in counts.items() if count != seen.get(name, 0)}
    microvms.saw_activity(grown, now)
    return dict(counts)


async def _next(microvms: MicroVms, now: float) -> None:
    live = microvms.live()
    looks = [look for look in map(next_look, live) if look is not None]
    wait = min(looks) - now if looks else None
    if any(_may_idle(microvm) for microvm in live):
        wait = ACTIVITY_INTERVAL_S if wait is None else min(wait, ACTIVITY_INTERVAL_S)
    with suppress(TimeoutError):
        async with asyncio.timeout(None if wait is None else max(wait, 0.05)):
            await microvms.any_change.wait()


def _may_idle(microvm: MicroVm) -> bool:
    return microvm.idle_policy is not None and microvm.phase is Phase.RUNNING
