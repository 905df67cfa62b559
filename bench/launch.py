"""How long it takes to run, suspend and resume a MicroVM, and where the time goes.

Everything is measured from outside, as a client sees it, against a running service (one is started
if none runs). Ours is the time of the API calls and of the node's steps outside of the guest, by
the service's own record; where they overlap they count twice, so it is an upper bound. The rest is
the guest's: its agent, and the application's first answer after a restore. Prints a table and
writes JSON below ``build/bench``.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import typer
from rich.table import Table

from bench.results import percentile, write
from microvmd.cli.client import TOKEN_HEADER, Service, idle_policy
from microvmd.cli.demo import default_example, running_service
from microvmd.cli.failure import reported
from microvmd.cli.images import BuildOptions, build_image
from microvmd.cli.output import console, duration, size
from microvmd.cli.waiting import wait_for_microvm
from microvmd.node.timings import CLAIM
from microvmd.service.failure import Failure
from microvmd.settings.settings import load

IMAGE = "bench-hello"
BOOT_BEGINS = "starting the application"
BOOT_ENDS = "taking the snapshot"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured step, in seconds: what the client waited, and our part of it at most."""

    total: float
    ours: float
    claimed: bool = False
    """A VMM had waited for it."""

    @property
    def guest(self) -> float:
        return max(0.0, self.total - self.ours)


@dataclass(frozen=True, slots=True)
class Together:
    """Many MicroVMs of one image at once."""

    count: int
    seconds: float
    slowest: float
    pss_bytes: int


class Lab:
    """The client's side of all measurements, on connections that are new each time."""

    def __init__(self, service: Service, memory: int) -> None:
        self.service = service
        self.options = BuildOptions(name=f"{IMAGE}-{memory}", memory=memory)
        self.image_arn = ""

    def prepare(self, boots: int) -> list[float]:
        """Build the image ``boots`` times; each build boots it cold once. Seconds of each boot."""
        cold = []
        for number in range(boots):
            image = build_image(self.service, default_example(), self.options, show_log=number == 0)
            self.image_arn = image["imageArn"]
            cold.append(self._cold_boot(image["imageVersion"]))
            self._keep_only(image["imageVersion"])
        return cold

    def _cold_boot(self, version: str) -> float:
        """From power-on to the application listening, by the times in the build log."""
        microvms = self.service.microvms
        builds = microvms.list_microvm_image_builds(
            imageIdentifier=self.image_arn, imageVersion=version
        )
        stream = f"build/{version}/{builds['items'][0]['buildId']}"
        lines = list(self.service.logs(f"/aws/lambda-microvms/{self.options.name}", stream))
        begins = next(line.time for line in lines if line.message.startswith(BOOT_BEGINS))
        ends = next(line.time for line in lines if line.message.startswith(BOOT_ENDS))
        return ends - begins

    def _keep_only(self, version: str) -> None:
        microvms = self.service.microvms
        listed = microvms.list_microvm_image_versions(imageIdentifier=self.image_arn)
        for item in listed["items"]:
            if item["imageVersion"] != version and item["state"] in ("SUCCESSFUL", "FAILED"):
                microvms.delete_microvm_image_version(
                    imageIdentifier=self.image_arn, imageVersion=item["imageVersion"]
                )

    def run(self) -> tuple[Sample, str, str, str]:
        """RunMicrovm call to the first 200. The time to make a token is in it."""
        began = time.perf_counter()
        microvm = self.service.microvms.run_microvm(
            imageIdentifier=self.image_arn, idlePolicy=idle_policy()
        )
        name, endpoint = microvm["microvmId"], microvm["endpoint"]
        token = self.service.token(name)
        called = time.perf_counter() - began
        self.request(endpoint, token)
        total = time.perf_counter() - began
        claimed = CLAIM in self._timings(name, "started")
        sample = Sample(total, called + self._ours(name, "started"), claimed)
        return sample, name, endpoint, token

    def suspend(self, name: str) -> Sample:
        """SuspendMicrovm call to SUSPENDED, as GetMicrovm tells it."""
        wait_for_microvm(self.service, name, "RUNNING")
        began = time.perf_counter()
        self.service.microvms.suspend_microvm(microvmIdentifier=name)
        wait_for_microvm(self.service, name, "SUSPENDED")
        total = time.perf_counter() - began
        return Sample(total, total - self._guest(name, "suspended"))

    def wake(self, name: str, endpoint: str, token: str) -> Sample:
        """A request to a SUSPENDED MicroVM to its 200."""
        began = time.perf_counter()
        self.request(endpoint, token)
        total = time.perf_counter() - began
        return Sample(total, self._ours(name, "started"))

    def end(self, name: str) -> None:
        self.service.microvms.terminate_microvm(microvmIdentifier=name)
        wait_for_microvm(self.service, name, "TERMINATED")

    def request(
        self, endpoint: str, token: str, method: str = "GET", path: str = "/count"
    ) -> dict[str, int]:
        """One request on a new connection. Raises Failure unless it is answered with 200."""
        with self.service.endpoint_client() as client:
            answer = client.request(
                method, f"https://{endpoint}{path}", headers={TOKEN_HEADER: token}
            )
        if answer.status_code != 200:
            raise Failure(f"{endpoint}{path} answered {answer.status_code}: {answer.text[:200]}")
        found: dict[str, int] = answer.json()
        return found

    def _guest(self, name: str, step: str) -> float:
        """Seconds that the guest took; noted before the client could see the step's end."""
        timings = self._timings(name, step)
        return sum(ms for part, ms in timings.items() if part.startswith("guest.")) / 1000

    def _ours(self, name: str, step: str) -> float:
        """Seconds of the step outside of the guest."""
        timings = self._timings(name, step)
        return timings.get("total", 0.0) / 1000 - self._guest(name, step)

    def _timings(self, name: str, step: str) -> dict[str, float]:
        """Milliseconds by part of the step."""
        found: dict[str, float] = self.service.facts(name)["timings"].get(step, {})
        return found

    def together(self, count: int) -> Together:
        """``count`` MicroVMs run at once; each counts to a number of its own and keeps it."""
        began = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            started = list(pool.map(lambda _: self.run(), range(count)))
            seconds = time.perf_counter() - began
            try:
                list(pool.map(self._own_state, range(1, count + 1), started))
                facts = list(pool.map(lambda one: self.service.facts(one[1]), started))
            finally:
                list(pool.map(lambda one: self.end(one[1]), started))
        pss = sum(int(one["vmm"]["pss_bytes"]) for one in facts)
        return Together(count, seconds, max(one[0].total for one in started), pss)

    def _own_state(self, number: int, started: tuple[Sample, str, str, str]) -> None:
        _, name, endpoint, token = started
        for _ in range(number):
            found = self.request(endpoint, token, "POST")["count"]
        if found != number:
            raise Failure(f"{name} counted to {found}, not to {number}: state is mixed up")


def measure(lab: Lab, runs: int) -> dict[str, list[Sample]]:
    """Run, suspend and wake ``runs`` MicroVMs one after another; the first is for the caches."""
    samples: dict[str, list[Sample]] = {"run": [], "suspend": [], "wake": []}
    for number in range(runs + 1):
        run, name, endpoint, token = lab.run()
        try:
            suspend = lab.suspend(name)
            wake = lab.wake(name, endpoint, token)
        finally:
            lab.end(name)
        if number > 0:
            samples["run"].append(run)
            samples["suspend"].append(suspend)
            samples["wake"].append(wake)
        console.print(
            f"[dim]{number}/{runs}: run {duration(run.total)}, suspend {duration(suspend.total)}, "
            f"wake {duration(wake.total)}[/]",
            highlight=False,
        )
    return samples


def report(
    samples: dict[str, list[Sample]], cold: Sequence[float], together: Together | None
) -> dict[str, Any]:
    """Print the table; give what is written as JSON."""
    labels = {
        "run": "RunMicrovm to first 200",
        "suspend": "Suspend to SUSPENDED",
        "wake": "request to SUSPENDED to 200",
    }
    table = Table(box=None, header_style="bold")
    for column in ("", "p50", "p95", "ours p50", "guest p50"):
        table.add_column(column, justify="left" if not column else "right")
    parts: dict[str, Callable[[Sample], float]] = {
        "total": lambda sample: sample.total,
        "ours": lambda sample: sample.ours,
        "guest": lambda sample: sample.guest,
    }
    results: dict[str, Any] = {}
    for name, label in labels.items():
        found = {
            part: {
                f"p{share:.0%}".rstrip("%"): percentile([of(one) for one in samples[name]], share)
                for share in (0.5, 0.95)
            }
            for part, of in parts.items()
        }
        results[name] = {**found, "samples": [asdict(one) for one in samples[name]]}
        shown = (
            found["total"]["p50"],
            found["total"]["p95"],
            found["ours"]["p50"],
            found["guest"]["p50"],
        )
        table.add_row(label, *(duration(one) for one in shown))
    boot = statistics.median(cold)
    table.add_row("cold boot to listening", duration(boot), duration(max(cold)), "", "")
    console.print(table)
    claimed = sum(one.claimed for one in samples["run"])
    console.print(f"a VMM had waited for {claimed} of {len(samples['run'])} runs (pool.memory_mib)")
    ratio = boot / results["run"]["total"]["p50"]
    console.print(f"a run is {ratio:.1f} times faster than a cold boot")
    results["cold_boot"] = {"samples": list(cold), "ratio": ratio}
    if together is not None:
        console.print(
            f"{together.count} at once: all answer after {duration(together.seconds)}, slowest "
            f"{duration(together.slowest)}; PSS {size(together.pss_bytes)}, "
            f"{size(together.pss_bytes // together.count)} each",
            highlight=False,
        )
        results["together"] = asdict(together)
    return results


async def bench(options: argparse.Namespace) -> None:
    settings = load()
    async with running_service(settings):
        lab = Lab(Service(settings), options.memory)
        await asyncio.to_thread(_measure_all, lab, options)


def _measure_all(lab: Lab, options: argparse.Namespace) -> None:
    cold = lab.prepare(options.boots)
    samples = measure(lab, options.runs)
    together = lab.together(options.together) if options.together else None
    results = report(samples, cold, together)
    write("launch", results)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure run, suspend and resume of MicroVMs.")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--together", type=int, default=20, help="how many at once; 0 for none")
    parser.add_argument("--boots", type=int, default=3, help="builds, each with one cold boot")
    parser.add_argument("--memory", type=int, default=512, help="size of the image, MiB at least")
    options = parser.parse_args()
    try:
        with reported():
            asyncio.run(bench(options))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


if __name__ == "__main__":
    main()
