"""What may strike while `tests/soaklab.py` lives MicroVMs: each says how many it met."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.holdings import KEEPER

if TYPE_CHECKING:
    from tests.soaklab import Soak


def _kill_serve(soak: Soak, dice: random.Random) -> int:
    soak.service.kill()
    return 1


def _stop_serve(soak: Soak, dice: random.Random) -> int:
    soak.service.stop()
    return 1


def _kill_node(soak: Soak, dice: random.Random) -> int:
    """Its keeper starts another one, which adopts what runs."""
    return soak.kill(
        lambda: {pid for pid, line in soak.service.node().items() if KEEPER not in line}
    )


def _kill_vmm(soak: Soak, dice: random.Random) -> int:
    kept = {life.id for life in soak.kept}
    names = sorted(name for name in soak.service.vmms() if name not in kept)
    if not names:
        return 0
    name = dice.choice(names)
    soak.killed.add(name)
    return soak.kill(lambda: {pid for one, pid in soak.service.vmms().items() if one == name})


def _kill_edge(soak: Soak, dice: random.Random) -> int:
    """HAProxy's master and workers, or one of them."""
    pids = sorted(soak.service.haproxy())
    chosen = set(pids if dice.random() < 0.5 else dice.sample(pids, min(1, len(pids))))
    return min(1, soak.kill(lambda: chosen & soak.service.haproxy().keys()))


def _fill_disk(soak: Soak, dice: random.Random) -> int:
    with soak.full():
        threading.Event().wait(dice.uniform(0.5, 5))
    return 1


def _fill_disk_and_kill(soak: Soak, dice: random.Random) -> int:
    """A service that does not come up without disk is started again when there is some."""
    with soak.full():
        threading.Event().wait(dice.uniform(0, 2))
        soak.service.kill()
        soak.service.launch()
        threading.Event().wait(dice.uniform(0.5, 5))
    process = soak.service.process
    assert process is not None
    if process.poll() is not None:
        soak.counters["serve did not start: disk full"] += 1
        soak.service.process = None
    return 1


FAULTS: dict[str, Callable[[Soak, random.Random], int]] = {
    "serve: kill -9": _kill_serve,
    "serve: SIGTERM": _stop_serve,
    "node: kill -9": _kill_node,
    "VMM: kill -9": _kill_vmm,
    "HAProxy: kill -9": _kill_edge,
    "disk full": _fill_disk,
    "disk full, serve: kill -9": _fill_disk_and_kill,
}
