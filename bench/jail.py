"""What a jail costs a start: QEMU asked for its version, without a jail, in one, and filtered too.

From before the jailer is started to the end of QEMU, so a difference is the jail: cgroup, user,
namespaces, root, filter. The three take turns, so that what else the machine does meets all of
them. Needs root. Prints a table and writes JSON below ``build/bench``.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from rich.table import Table

from bench.results import percentile, write
from microvmd.cli.output import console, duration
from microvmd.node.jail import Jails, JailSettings, limits_for
from microvmd.settings.settings import load
from microvmd.vmm.machine import AcceleratorKind, Launcher, VmmCommand
from microvmd.vmm.qemu import QEMU, PlainLauncher

GROUP = "microvmd-bench-jail"
FIRST_UID = 784_000
WAYS = ("no jail", "jail", "jail and filter")


async def start(launcher: Launcher) -> None:
    output = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        command = VmmCommand((os.fspath(QEMU), "--version"), (), (), output)
        async with launcher.launch(command) as process:
            ended = await process.wait()
    finally:
        os.close(output)
    if ended.code != 0:
        raise SystemExit(f"QEMU was {ended}")


@contextlib.asynccontextmanager
async def launcher_for(way: str, jails: dict[str, Jails]) -> AsyncIterator[Launcher]:
    if way not in jails:
        yield PlainLauncher()
        return
    async with jails[way].jail("one", limits_for(512, 1), AcceleratorKind.TCG) as jail:
        yield jail


async def measure(cache: Path, runs: int) -> dict[str, list[float]]:
    jailer = load().assets / "microvmd-jailer"
    samples: dict[str, list[float]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        jails = {}
        for way, seccomp in (("jail", "off"), ("jail and filter", "enforce")):
            settings = JailSettings(jailer, cache, GROUP, FIRST_UID, seccomp=seccomp)
            jails[way] = stack.enter_context(contextlib.closing(await Jails.open(settings)))
        for number in range(runs + 1):
            for way in WAYS:
                began = time.perf_counter()
                async with launcher_for(way, jails) as launcher:
                    await start(launcher)
                if number > 0:  # the first fills the page cache
                    samples[way].append(time.perf_counter() - began)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with TemporaryDirectory(prefix="bench-jail-") as folder:
        samples = asyncio.run(measure(Path(folder), options.runs))
    table = Table("", "p50", "p95", "more than without")
    results = {}
    for way, taken in samples.items():
        p50, p95 = percentile(taken, 0.5), percentile(taken, 0.95)
        more = p50 - percentile(samples[WAYS[0]], 0.5)
        table.add_row(way, duration(p50), duration(p95), duration(more) if more > 0 else "")
        results[way] = {"p50": p50, "p95": p95, "samples": taken}
    console.print(table)
    write("jail", {"start": results})


if __name__ == "__main__":
    main()
