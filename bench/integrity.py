"""What it costs to compare a snapshot with its manifest: by a stat for each file, and in full.

Makes an image snapshot of a sparse memory file of its own. In full is what the first start after a
boot of the machine pays, once for all MicroVMs of the image; by a stat is what every other start
pays. Prints a table and writes JSON below ``build/bench``.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from bench.results import percentile, write
from microvmd.cli.output import console, duration
from microvmd.node.known_files import KnownFiles
from microvmd.node.snapshot import Manifest, Stamp, check, load, seal_image, unknown

MIB = 1 << 20
STAMP = Stamp("tcg", "bench", "bench", "bench")


def make(directory: Path, memory: int, filled: int) -> None:
    """Other files are small beside the memory."""
    directory.mkdir()
    for name in ("rootfs.erofs", "disk.raw", "device"):
        (directory / name).write_bytes(random.randbytes(100_000))
    with (directory / "memory").open("wb") as file:
        for number in range(filled):
            file.seek(number * memory // filled * MIB)
            file.write(random.randbytes(MIB))
        file.truncate(memory * MIB)


def timed(times: int, work: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


def spent(seconds: float) -> str:
    return duration(seconds) if seconds > 0.001 else f"{seconds * 1e6:.0f} µs"


def forget_pages(directory: Path) -> None:
    """As after a boot: what is read comes from the disk."""
    for path in directory.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, default=2048, help="MiB")
    parser.add_argument("--filled", type=int, default=300, help="MiB of it that are not holes")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="bench-integrity-") as folder:
        place, known = Path(folder), KnownFiles(Path(folder) / "known")
        made, image = place / "made", place / "image"
        make(made, options.memory, options.filled)
        sealing = seal_image(
            made, image, stamp=STAMP, memory_mib=options.memory, vcpus=1, known=known
        )
        manifest: Manifest = asyncio.run(sealing)
        names = list(manifest.files)

        def in_full() -> None:
            check(image, manifest, names, KnownFiles(place / "empty"), bool)

        def from_disk() -> None:
            forget_pages(image)
            in_full()

        samples = {
            "manifest": timed(200, lambda: load(image, stamp=STAMP)),
            "by stat": timed(200, lambda: unknown(image, manifest, known)),
            "in full, in memory": timed(options.runs, in_full),
            "in full, from disk": timed(options.runs, from_disk),
        }
    table = Table("", "p50", "p95", "MiB/s")
    for name, taken in samples.items():
        p50 = percentile(taken, 0.5)
        rate = f"{options.filled / p50:.0f}" if name.startswith("in full") else ""
        table.add_row(name, spent(p50), spent(percentile(taken, 0.95)), rate)
    console.print(table)
    write("integrity", {"options": vars(options), "samples": samples})


if __name__ == "__main__":
    main()
