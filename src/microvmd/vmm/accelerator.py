"""Whether this node runs guests under KVM or under emulation (TCG), and how it knows.

/dev/kvm may exist and be useless, as in many cloud machines: only a guest that boots under it
proves it. The answer holds until the next boot of the machine and is cached for that long.
"""

import asyncio
import contextlib
import ctypes
import json
import mmap
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from microvmd.vmm.machine import (
    Accelerator,
    AcceleratorKind,
    Boot,
    MachineFailed,
    MachineFiles,
    MachineSpec,
)
from microvmd.vmm.process import ProcessStuck
from microvmd.vmm.qemu import PlainLauncher, launch

log = structlog.get_logger(__name__)

KVM = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROBE_LIMIT = 5.0
PROBE_MEMORY_MIB = 256
TSC_SAMPLE = 0.05
TSC_TRIES = 8
# rdtsc; shl rdx, 32; or rax, rdx; ret
READ_TSC = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"


@dataclass(frozen=True, slots=True)
class ProbeGuest:
    """What is booted to see whether KVM works: the kernel and agent of any machine."""

    kernel: Path
    initrd: Path
    qemu: Path | None = None
    """None: the one that will run machines."""
    limit: float = PROBE_LIMIT
    """Seconds until its agent must be there."""


async def detect(wanted: str, guest: ProbeGuest, cache: Path) -> Accelerator:
    """The accelerator for `auto`, `kvm` or `tcg`, from the cache file or by a probe.

    `kvm` is taken at its word, without a probe; it fails later where KVM does not work.
    """
    if wanted != "auto":
        return Accelerator(AcceleratorKind(wanted), "as configured", await _tsc_khz())
    known = await asyncio.to_thread(remembered, cache)
    if known is not None:
        return known
    kind, reason = await _probe(guest)
    accelerator = Accelerator(kind, reason, await _tsc_khz())
    await asyncio.to_thread(_remember, cache, accelerator)
    log.info("accelerator.detected", kind=kind.value, reason=reason)
    return accelerator


async def _probe(guest: ProbeGuest) -> tuple[AcceleratorKind, str]:
    if not os.path.exists(KVM):  # noqa: ASYNC240 - a name in /dev, no disk is asked
        return AcceleratorKind.TCG, f"{KVM} does not exist"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return AcceleratorKind.TCG, f"{KVM} cannot be opened"
    begin = time.monotonic()
    try:
        await boots(guest, Accelerator(AcceleratorKind.KVM, "probe", 0), guest.limit)
    except TimeoutError:
        return AcceleratorKind.TCG, f"{KVM} exists, but no guest boots within {guest.limit:g} s"
    except (MachineFailed, ProcessStuck, OSError) as error:
        return AcceleratorKind.TCG, f"{KVM} exists, but QEMU cannot use it: {error}"
    return AcceleratorKind.KVM, f"a guest booted in {time.monotonic() - begin:.1f} s"


async def boots(guest: ProbeGuest, accelerator: Accelerator, limit: float) -> None:
    """Boot a guest until its agent opens its port. Raises TimeoutError, MachineFailed."""
    with tempfile.TemporaryDirectory(prefix="microvmd-probe-") as scratch:
        directory = Path(scratch)
        spec = MachineSpec(
            memory_mib=PROBE_MEMORY_MIB,
            vcpus=1,
            memory_file=directory / "memory",
            kernel=guest.kernel,
            initrd=guest.initrd,
            accelerator=accelerator,
        )
        async with asyncio.timeout(limit):
            async with launch(
                spec, MachineFiles(directory), PlainLauncher(), Boot(), qemu=guest.qemu
            ) as machine:
                await machine.cont_until_agent()


def remembered(cache: Path) -> Accelerator | None:
    """What was found out since this boot of the machine; None: nothing."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        fields = json.loads(cache.read_text())
        if fields.pop("boot_id") == _boot_id():
            return Accelerator(
                AcceleratorKind(fields["kind"]), str(fields["reason"]), int(fields["tsc_khz"])
            )
    return None


def _remember(cache: Path, accelerator: Accelerator) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    half = cache.with_suffix(f".{os.getpid()}")
    half.write_text(json.dumps({"boot_id": _boot_id(), **asdict(accelerator)}))
    half.rename(cache)


def _boot_id() -> str:
    return BOOT_ID.read_text().strip()


async def _tsc_khz() -> int:
    return await asyncio.to_thread(measure_tsc_khz)


def measure_tsc_khz() -> int:
    """Rate of the time stamp counter, by reading it; 0 where there is none.

    /proc/cpuinfo tells the present speed of the core instead, and the kernel log may be gone.
    """
    if platform.machine() != "x86_64":
        return 0
    executable = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    with mmap.mmap(-1, len(READ_TSC), prot=executable) as code:
        code.write(READ_TSC)
        anchor = ctypes.c_char.from_buffer(code)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
        try:
            return round(statistics.median(_sample_khz(read) for _ in range(3)))
        finally:
            del anchor, read


def _sample_khz(read: Callable[[], int]) -> float:
    begin_ns, begin = _moment(read)
    time.sleep(TSC_SAMPLE)
    end_ns, end = _moment(read)
    return (end - begin) * 1e6 / (end_ns - begin_ns)


def _moment(read: Callable[[], int]) -> tuple[float, int]:
    """Clock and counter at one moment: of some tries the one between whose two looks at the clock
    the least passed, for a busy machine may stop us there for milliseconds."""
    tries = []
    for _ in range(TSC_TRIES):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        counter = int(read())
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        tries.append((after - before, (before + after) / 2, counter))
    _, moment, counter = min(tries)
    return moment, counter
