"""Builds in namespaces of the node itself, for Dockerfiles that the operator trusts.

Twelve times faster than a build microVM under emulation, and not a wall: see ``enclosure.py``.
"""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from microvmd.build.enclosure import Bind, Enclosure
from microvmd.build.job import EXIT_FAILED, EXIT_FULL, Job
from microvmd.build.layers import remove_tree
from microvmd.build.lines import LineLog, Meter
from microvmd.build.toolchain import INSIDE, PYTHON, ImageStore
from microvmd.build.workshop import Log, Order, OutOfTime, StoreFull, Unenclosed, watch_space
from microvmd.model.egress import INTERNET
from microvmd.node.cgroup import Cgroup, Limits, find_hierarchies
from microvmd.vmm.process import ProcessFailed, run

PIDS = 4096
"""Processes and threads of a build at a time."""
_KILL_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class NamespaceWorkshop:
    """``network`` is the name of a network namespace; None is the node's own, loopback included.

    ``memory_mib`` and PIDS bound all processes of a build, ``disk_bytes`` its layer store.
    ``group`` names the control groups.
    """

    network: str | None = None
    memory_mib: int = 2048
    disk_bytes: int = 20 << 30
    group: str = "microvmd-builds"

    def base_path(self, store: ImageStore, position: int) -> str:
        return f"/build/bases/{store.path.parent.name}/{store.path.name}"

    def complete(self, job: Job) -> Job:
        return replace(job, files_limit=self.disk_bytes)

    async def run(self, order: Order, log: Log) -> int:
        if order.egress != INTERNET:
            # These builds share the node's own network: nothing would hold them.
            raise Unenclosed
        layers = await asyncio.to_thread(self._prepare_layers, order)
        with self._limited(log) as group:
            enclosure = await self._enclosure(order, layers, group)
            return await self._enclosed(order, layers, enclosure, log)

    async def _enclosure(self, order: Order, layers: Path, group: Cgroup) -> Enclosure:
        return Enclosure(
            root=os.fspath(order.toolchain.root),
            binds=(
                Bind(os.fspath(order.archive), "/build/archive.zip"),
                Bind(os.fspath(order.extras), "/build/extras"),
                Bind(os.fspath(layers), "/build/store", writable=True),
                Bind(os.fspath(order.output), "/build/output", writable=True),
                Bind(os.fspath(order.result), "/build/result", writable=True),
                *self._base_binds(order),
            ),
            resolv_conf=await asyncio.to_thread(_resolv_conf, self.network),
            network=self.network,
            groups=tuple(map(os.fspath, group.procs_files)),
        )

    async def _enclosed(self, order: Order, layers: Path, enclosure: Enclosure, log: Log) -> int:
        lines = LineLog(log, Meter(rate=order.log_lines))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.time_limit
        argv = enclosure.argv([PYTHON, "-I", INSIDE])
        try:
            async with watch_space(order.output, layers, self.disk_bytes):
                done = await run(argv, timeout=order.time_limit, listener=lines.feed, check=False)
        except StoreFull:
            return EXIT_FULL
        except ProcessFailed as error:
            if loop.time() >= deadline:
                raise OutOfTime from error
            log("error: the build was ended because it printed too much")
            return EXIT_FAILED
        finally:
            lines.close()
        return done.code

    @contextlib.contextmanager
    def _limited(self, log: Log) -> Iterator[Cgroup]:
        """A control group for one build. Nothing in it is alive when the context ends."""
        group = Cgroup(find_hierarchies(), self.group, f"build-{uuid.uuid4()}")
        try:
            group.create(Limits(self.memory_mib << 20, PIDS))
            yield group
        finally:
            group.kill(_KILL_LIMIT)
            if group.oom_kills():
                log(f"error: a process was ended: a build may use {self.memory_mib} MiB of memory")
            group.remove()

    async def forget_layers(self, order: Order) -> bool:
        layers = order.layers / "namespace"
        existed = layers.exists()
        await remove_tree(layers)
        return existed

    def _base_binds(self, order: Order) -> tuple[Bind, ...]:
        folders = {os.fspath(store.path.parent.parent) for store in order.stores}
        return tuple(Bind(folder, "/build/bases") for folder in folders)

    def _prepare_layers(self, order: Order) -> Path:
        layers = order.layers / "namespace"
        layers.mkdir(parents=True, exist_ok=True)
        layers.chmod(0o700)
        return layers


def _resolv_conf(network: str | None) -> str:
    """A network namespace brings its own resolver file, as ``ip netns exec`` has it."""
    place = Path("/etc/netns", network, "resolv.conf") if network else Path("/etc/resolv.conf")
    return place.read_text() if place.is_file() else Path("/etc/resolv.conf").read_text()
