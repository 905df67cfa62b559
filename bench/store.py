"""What a full record costs: pages of 100,000 MicroVMs, one of them, a restart, a sweep.

Fills a database of its own through the store, then measures the calls of the control plane that
the API makes. Prints a table and writes JSON below ``build/bench``.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from bench.results import percentile, write
from microvmd.cli.output import console, duration
from microvmd.control.managed import ManagedImages
from microvmd.control.microvms import MicroVms
from microvmd.control.paging import Cursors
from microvmd.control.retention import forget_before
from microvmd.control.store import Store, Transaction
from microvmd.messages.node import Command
from microvmd.model.microvm import MicroVm, Phase

ACCOUNT, REGION = "123456789012", "us-east-1"
IMAGES = ("common", "rare")
ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:"
PAGE = 50
BATCH = 2000


class NoNode:
    """Nothing is run here, so nothing is sent."""

    async def send(self, command: Command) -> None:
        raise AssertionError(f"not expected: {command}")


class NoRoutes:
    """Nothing is reachable here."""

    async def add(self, endpoint_id: str, address: str) -> None:
        raise AssertionError(endpoint_id)

    async def remove(self, endpoint_id: str) -> None:
        raise AssertionError(endpoint_id)


def ended(number: int) -> MicroVm:
    """One in a hundred is of a rare image, one in a hundred of a rare version."""
    image = IMAGES[number % 100 == 0]
    return MicroVm(
        microvm_id=f"microvm-{number:032x}",
        account=ACCOUNT,
        endpoint_id=f"endpoint-{number}",
        image_arn=f"{ARN}{image}",
        image_version="2.0" if number % 100 == 1 else "1.0",
        phase=Phase.TERMINATED,
        generation=1,
        started_at=float(number),
        ingress=(
            f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:HTTP_INGRESS",
        ),
        egress=(
            f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:INTERNET_EGRESS",
        ),
        state_reason="Success.",
        terminated_at=float(number + 10),
    )


async def fill(store: Store, count: int) -> None:
    for first in range(0, count, BATCH):

        def write_some(tx: Transaction, first: int = first) -> None:
            for number in range(first, min(first + BATCH, count)):
                made = ended(number)
                tx.add_microvm(made)
                tx.add_client_token(
                    ACCOUNT, "RunMicrovm", f"token-{number}", "f" * 64, made.microvm_id, 1.0
                )

        await store.run(write_some)


class Lab:
    """The control plane over a full record."""

    def __init__(self, store: Store, microvms: MicroVms, count: int) -> None:
        self.store = store
        self.microvms = microvms
        self.count = count

    async def walk(self, pages: int, **filters: str) -> list[float]:
        """Seconds of each page, from the newest on."""
        token, times = None, []
        for _ in range(pages):
            began = time.perf_counter()
            page = await self.microvms.list_microvms(
                ACCOUNT, max_results=PAGE, next_token=token, **filters
            )
            times.append(time.perf_counter() - began)
            token = page.next_token
            if token is None:
                break
        return times

    async def timed(self, call: Callable[[], Awaitable[object]], times: int) -> list[float]:
        found = []
        for _ in range(times):
            began = time.perf_counter()
            await call()
            found.append(time.perf_counter() - began)
        return found

    async def measure(self) -> dict[str, list[float]]:
        common, rare = (f"{ARN}{name}" for name in IMAGES)
        some = [f"microvm-{number:032x}" for number in range(0, self.count, self.count // 100)]
        names = iter(some)
        return {
            "ListMicrovms, every page": await self.walk(self.count),
            "of an image": await self.walk(100, image_identifier=common),
            "of a rare image": await self.walk(100, image_identifier=rare),
            "of a rare version": await self.walk(100, image_identifier=common, image_version="2.0"),
            "of a version": await self.walk(100, image_version="2.0"),
            "GetMicrovm": await self.timed(
                lambda: self.microvms.get(ACCOUNT, next(names)), len(some)
            ),
            "load after restart": await self.timed(self.microvms.load_after_restart, 5),
            "forget half": await self.timed(
                lambda: forget_before(self.store, self.count / 2 + 10), 1
            ),
            "ListMicrovms, afterwards": await self.walk(100),
        }


async def bench(count: int) -> None:
    with TemporaryDirectory(prefix="store") as directory:
        path = Path(directory) / "state.db"
        async with Store.at(path) as store:
            await fill(store, count)
            managed = ManagedImages(REGION, {})
            cursors = Cursors(b"k" * 32)
            async with MicroVms(
                store, NoNode(), NoRoutes(), cursors, time.time, managed
            ) as microvms:
                samples = await Lab(store, microvms, count).measure()
        size = path.stat().st_size
    table = Table(box=None, header_style="bold")
    for column in ("", "calls", "p50", "p99", "most"):
        table.add_column(column, justify="left" if not column else "right")
    for name, times in samples.items():
        shown = (percentile(times, 0.5), percentile(times, 0.99), max(times))
        table.add_row(name, f"{len(times):,}", *(duration(one) for one in shown))
    console.print(table)
    console.print(f"{count:,} MicroVMs, {size / 2**20:.0f} MiB")
    write("store", {"count": count, "bytes": size, "samples": samples})


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the record of 100,000 MicroVMs.")
    parser.add_argument("--count", type=int, default=100_000)
    asyncio.run(bench(parser.parse_args().count))


if __name__ == "__main__":
    main()
