"""How fast the VMM itself is: boot, restore, suspend and resume, and what clones share.

Measured on a node without the API and the edge: real jails, networks and guest agent, the small
application of the tests (`tests/vm/lifecycle.c`). From the start of the VMM to the first answer of
its guest agent, so that the application plays no part. ``--kvm-host`` measures within an emulated
machine that offers KVM (`tests/kvmhost`): its times mean nothing, only their ratios do. Prints a
table and writes JSON below ``build/bench``.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.table import Table

from bench.bars import chart
from bench.results import write
from microvmd.cli.output import console, duration, size
from microvmd.cli.waiting import poll
from microvmd.messages.node import (
    BuildVersion,
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendMicrovm,
    Terminated,
)
from microvmd.model.pool import PoolRules
from microvmd.node.bring_up import Equipment
from microvmd.node.server import pss_of
from microvmd.node.timings import CLAIM
from tests.accelerated import VARIABLE
from tests.kvmhost.machine import OUTPUT, KvmHost, kvm_host
from tests.kvmhost.root import INSIDE
from tests.kvmhost.sending import ENVIRONMENT, send
from tests.nodelab import VERSION, VMM_VARIABLE, NodeLab, RunningNode, ask, spec_of

BOOT_BEGINS = "starting the application"
BOOT_ENDS = "taking the snapshot"
MARK = "samples: "
VMMS = ("qemu", "firecracker")
ONE_WAITS = PoolRules(memory_mib=1024, most=1, keep_s=3600, spare_mib=0)
LIMIT = 1500.0
"""Seconds for all of it in an emulated machine."""
LABELS = {
    "boot": "cold boot",
    "restore": "restore",
    "claimed": "restore in a VMM that waited",
    "paused": "the same, guest restored before",
    "suspend": "suspend, {dirty} MiB dirty",
    "resume": "resume, {dirty} MiB dirty",
}


@dataclass
class Samples:
    """Seconds of each step, and bytes of memory that a clone has of its own, of many."""

    boot: list[float] = field(default_factory=list)
    restore: list[float] = field(default_factory=list)
    claimed: list[float] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    suspend: list[float] = field(default_factory=list)
    resume: list[float] = field(default_factory=list)
    pss: list[int] = field(default_factory=list)


async def measure(options: argparse.Namespace) -> Samples:
    """All of it on a node of its own, under the VMM that the tests are told to use."""
    samples = Samples()
    with NodeLab.made() as lab:
        async with lab.equipment() as equipment:
            # Boots of versions that nobody runs first, so that the last one is VERSION.
            for number in reversed(range(options.boots)):
                version = VERSION if number == 0 else replace(VERSION, image_name=f"boot{number}")
                command = await lab.capture(equipment, version=version)
                samples.boot.append(await _boot_seconds(equipment, command))
        async with lab.node() as node:
            for number in range(options.runs + 1):
                await _life(node, options.dirty, samples if number else Samples())
            samples.pss += await _clones(node, options.clones)
        for restored, found in ((False, samples.claimed), (True, samples.paused)):
            async with replace(lab, pool=replace(ONE_WAITS, restored=restored)).node() as node:
                found += await _claims(node, options.runs)
    return samples


async def _boot_seconds(equipment: Equipment, command: BuildVersion) -> float:
    """From power-on to the application listening, by the build log."""
    await equipment.logs.flush()
    page = await equipment.logs.read(command.log.group, command.log.stream)
    times = [
        entry.time for entry in page.entries if entry.text.startswith((BOOT_BEGINS, BOOT_ENDS))
    ]
    return times[-1] - times[-2]


async def _life(node: RunningNode, dirty: int, samples: Samples) -> None:
    """Run, dirty memory, suspend, resume, terminate; the application must have gone on."""
    spec = spec_of()
    await node.start(spec)
    started = await node.reports.next(Started)
    assert await ask(started.edge_address, f"take/{dirty}") == "taken"
    count = int(await ask(started.edge_address, "count"))
    await node.agent.send(SuspendMicrovm(spec.microvm_id, spec.generation))
    suspended = await node.reports.next(Suspended)
    again = replace(spec, generation=spec.generation + 1)
    await node.agent.send(ResumeMicrovm(again))
    resumed = await node.reports.next(Started)
    assert int(await ask(resumed.edge_address, "count")) == count + 1
    await node.terminate(again)
    await node.reports.next(Terminated)
    samples.restore.append(_until_answer(started))
    samples.suspend.append(suspended.timings["total"] / 1000)
    samples.resume.append(_until_answer(resumed))


def _until_answer(started: Started) -> float:
    """From the start of the VMM, in its jail, or from that of the restore where it waited, to the
    first answer of the guest agent."""
    return (started.timings["vmm"] + started.timings["guest.restored"]) / 1000


async def _claims(node: RunningNode, runs: int) -> list[float]:
    """One after another, each when a VMM waits for it; the first asks for that."""
    seconds = []
    for number in range(runs + 1):
        spec = spec_of()
        await node.start(spec)
        started = await node.reports.next(Started)
        if number:
            seconds.append(started.timings[CLAIM] / 1000 + _until_answer(started))
        await node.terminate(spec)
        await node.reports.next(Terminated)
        waits = await asyncio.to_thread(poll, lambda: node.agent.waiting or None, limit=LIMIT)
        assert waits == 1
    return seconds


async def _clones(node: RunningNode, count: int) -> list[int]:
    """Memory of each of many clones at once, when each has answered a request."""
    specs = [spec_of() for _ in range(count)]
    for spec in specs:
        await node.start(spec)
        await ask((await node.reports.next(Started)).edge_address, "count")
    pids = [node.pid_of(spec) for spec in specs]
    found = [pss_of(pid) for pid in pids if pid is not None]
    for spec in specs:
        await node.terminate(spec)
        await node.reports.next(Terminated)
    return [pss for pss in found if pss is not None]


def in_kvm_host(arguments: Sequence[str]) -> dict[str, Samples]:
    """The same in an emulated machine with KVM, under one VMM after another."""
    with kvm_host() as host:
        send(host)
        measured = {vmm: _in_host(host, vmm, arguments) for vmm in VMMS}
    found = {vmm: samples for vmm, samples in measured.items() if samples is not None}
    return found or sys.exit("nothing was measured")


def _in_host(host: KvmHost, vmm: str, arguments: Sequence[str]) -> Samples | None:
    done = host.run(
        ["python3", "-m", "bench.vmm", "--raw", *arguments],
        env={**ENVIRONMENT, VARIABLE: "kvm", VMM_VARIABLE: vmm},
        cwd=INSIDE,
        limit=LIMIT,
        sink=_show,
    )
    found = [line for line in done.text.splitlines() if line.startswith(MARK)]
    if done.code != 0 or not found:
        sys.stderr.write(f"the measurement of {vmm} in the KVM host ended with {done.code}\n")
        return None
    return Samples(**json.loads(found[0].removeprefix(MARK)))


def _show(kind: bytes, data: bytes) -> None:
    if kind != OUTPUT:
        sys.stderr.buffer.write(data)
        sys.stderr.flush()


def report(found: Mapping[str, Samples], options: argparse.Namespace) -> None:
    """A column for each VMM; behind each time how much faster than a cold boot under QEMU."""
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
        table.add_column("max", justify="right")
        table.add_column("x boot", justify="right")
    for label, step in labels(options.dirty).items():
        row = [label]
        for samples in found.values():
            values = getattr(samples, step)
            middle = statistics.median(values)
            row += [duration(middle), duration(max(values)), f"{_boot(found) / middle:.1f}"]
        table.add_row(*row)
    row = [f"PSS of each of {options.clones}"]
    for samples in found.values():
        row += [size(int(statistics.median(samples.pss))), size(max(samples.pss)), ""]
    table.add_row(*row)
    console.print(table)


def labels(dirty: int) -> dict[str, str]:
    return {label.format(dirty=dirty): step for step, label in LABELS.items()}


def _boot(found: Mapping[str, Samples]) -> float:
    """Seconds of a cold boot under the first VMM: what all else is compared with."""
    return statistics.median(next(iter(found.values())).boot)


def drawn(found: Mapping[str, Samples], options: argparse.Namespace) -> str:
    """The ratios of the table as SVG."""
    rows = {
        label: [_boot(found) / statistics.median(getattr(one, step)) for one in found.values()]
        for label, step in labels(options.dirty).items()
    }
    return chart("Times as fast as a cold boot under QEMU (KVM)", list(found), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a VMM by boot, restore, suspend, resume.")
    parser.add_argument("--boots", type=int, default=3)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--clones", type=int, default=8)
    parser.add_argument("--dirty", type=int, default=50, help="MiB written before a suspend")
    parser.add_argument("--kvm-host", action="store_true", help="in an emulated machine with KVM")
    parser.add_argument("--raw", action="store_true", help="print the samples and nothing else")
    parser.add_argument("--svg", type=Path, help="draw the ratios into this file")
    options = parser.parse_args()
    arguments = [
        f"--{name}={getattr(options, name)}" for name in ("boots", "runs", "clones", "dirty")
    ]
    if options.kvm_host:
        found = in_kvm_host(arguments)
    else:
        vmm = os.environ.get(VMM_VARIABLE, VMMS[0])
        found = {vmm: asyncio.run(measure(options))}
    if options.raw:
        (samples,) = found.values()
        sys.stdout.write(f"{MARK}{json.dumps(asdict(samples))}\n")
        return
    report(found, options)
    if options.svg is not None:
        options.svg.write_text(drawn(found, options))
    write("vmm", {name: asdict(one) for name, one in found.items()})


if __name__ == "__main__":
    main()
