"""The end of the trace of a run or a resume: its first answer, whose times HAProxy keeps beside its
counters.

No request tells the service anything; the counters are read while a start that is traced has no
answer yet.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from microvmd.control.microvms import MicroVms
from microvmd.edge.activity import Activity

LOOK_S = 2.0

Traffic = Callable[[], Awaitable[Mapping[str, Activity]]]
"""By endpoint id. Raises OSError when the edge does not answer."""


async def trace_first_answers(microvms: MicroVms, traffic: Traffic) -> None:
    """Run for ever; does nothing while no start is traced."""
    while True:
        await microvms.traces.some_unanswered.wait()
        with suppress(OSError):  # HAProxy starts anew; it may yet have the next one
            look(microvms, await traffic(), time.time())
        await asyncio.sleep(LOOK_S)


def look(microvms: MicroVms, traffic: Mapping[str, Activity], now: float) -> None:
    """What has been answered by ``now``, in seconds since the epoch."""
    for microvm in microvms.live():
        seen = traffic.get(microvm.endpoint_id)
        if microvm.microvm_id in microvms.traces.unanswered and seen is not None and seen.first:
            microvms.traces.answered(microvm.microvm_id, *seen.first.seen_at(now))
    microvms.traces.give_up(now)
