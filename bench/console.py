"""What a list of live MicroVMs costs: the page in a browser, and the process that serves it.

A process of its own serves the real console over a real control plane and store, with MicroVMs
whose rows all change every two seconds; Chromium shows them on one page. Prints a table and writes
JSON below ``build/bench``. The browser is that of the tests.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import uvicorn
from playwright.sync_api import CDPSession
from rich.table import Table

from bench.results import percentile, write
from microvmd.api.connection import configure
from microvmd.api.listener import listen
from microvmd.cli.output import console
from microvmd.cli.waiting import poll
from microvmd.edge.activity import Activity
from microvmd.messages.node import Started
from microvmd.messages.node_requests import Vmm
from microvmd.service.live import INTERVAL_S, use_of
from microvmd.vmm.process import ProcessIdentity
from tests.browserlab import log_in, open_tab, running_chromium
from tests.consolelab import OPERATOR, ConsoleLab, console_lab
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN

SETTLE_S = 6.0
# A layout is forced, so that its cost is counted with the update that caused it.
LISTEN = """() => {
    window.updates = [];
    document.addEventListener("microvms:updated", ({detail}) => {
        const began = performance.now();
        document.body.offsetHeight;
        updates.push({...detail, milliseconds: detail.milliseconds + performance.now() - began});
    });
}"""


async def serve(port: int, assets: Path, count: int) -> None:
    """Until it is killed; every MicroVM's VMM is this process, and all have traffic."""
    own = ProcessIdentity.of(os.getpid())
    calls = 0

    async def vmm_of(_: str) -> Vmm | None:
        return Vmm(own.pid, own.start_time)

    async def traffic() -> Mapping[str, Activity]:
        nonlocal calls
        calls += 1
        live = lab.plane.microvms.live()
        return {
            one.endpoint_id: Activity(calls * 1000, 1, calls * (number % 90 + calls % 7))
            for number, one in enumerate(live)
        }

    with TemporaryDirectory() as directory:
        async with console_lab(
            Path(directory), assets=assets, traffic=traffic, vmm_of=vmm_of
        ) as lab:
            await _fill(lab, count)
            lab.plane.clock.now = time.time()
            with listen("127.0.0.1", port) as listener:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_look(lab))
                    tasks.create_task(uvicorn.Server(configure(lab.app)).serve([listener]))


async def _fill(lab: ConsoleLab, count: int) -> None:
    await lab.plane.built(resources=[{"minimumMemoryInMiB": 512}])
    for number in range(count):
        lab.plane.clock.now = time.time() - count + number
        made = await lab.plane.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        await lab.plane.microvms.report(Started(made.microvm_id, 1, "10.0.0.1"))
    lab.plane.node.commands.clear()


async def _look(lab: ConsoleLab) -> None:
    while True:
        lab.plane.clock.now = time.time()
        await lab.live.look()
        await asyncio.sleep(INTERVAL_S)


@contextmanager
def served(port: int, assets: Path, count: int) -> Iterator[Vmm]:
    """The process that serves, by pid."""
    argv = [sys.executable, "-m", "bench.console", "--serve", str(port)]
    argv += ["--assets", str(assets), "--count", str(count)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            identity = ProcessIdentity.of(process.pid)
            yield Vmm(identity.pid, identity.start_time)
        finally:
            process.kill()


def measure(port: int, assets: Path, count: int, seconds: float) -> dict[str, object]:
    """Milliseconds of each update of the page, and the share of one processor that serving takes:
    with the page open, and with nobody looking."""
    with served(port, assets, count) as process, running_chromium() as chromium:
        with open_tab(chromium.browser, base_url=f"http://127.0.0.1:{port}") as tab:
            page = tab.page
            _wait_for(port)
            page.goto("/console")
            log_in(page, OPERATOR.access_key, OPERATOR.secret_key)
            page.wait_for_url("**/console/microvms")
            page.locator("[name=size]").select_option("500")
            there = "count => document.querySelectorAll('#rows tr').length === count"
            page.wait_for_function(there, arg=count)
            page.wait_for_timeout(SETTLE_S * 1000)
            page.evaluate(LISTEN)
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            before = _thread_s(session)
            looking = _share(process, lambda: page.wait_for_timeout(seconds * 1000))
            used = _thread_s(session) - before
            updates = page.evaluate("updates")
        alone = _share(process, lambda: time.sleep(seconds))
    full = [one["milliseconds"] for one in updates if one["rows"] > count // 2]
    return {
        "microvms": count,
        "updates": len(full),
        "milliseconds": full,
        "page_share": used / seconds,
        "page_milliseconds": used * 1000 / max(1, len(full)),
        "serve_share": looking,
        "serve_share_alone": alone,
    }


def _share(process: Vmm, pause: Callable[[], None]) -> float:
    before, began = use_of(process), time.monotonic()
    pause()
    after = use_of(process)
    assert before is not None
    assert after is not None
    return (after.cpu_s - before.cpu_s) / (time.monotonic() - began)


def _thread_s(session: CDPSession) -> float:
    """Seconds of processor time that the page's own thread has taken."""
    found = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in found if one["name"] == "TaskDuration"))


def _wait_for(port: int) -> None:
    def ask() -> bool | None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/console/login", trust_env=False)
        except httpx.HTTPError:
            return None
        return True

    assert poll(ask, limit=120), "the console does not answer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="MicroVMs")
    parser.add_argument("--seconds", type=float, default=30, help="of looking")
    parser.add_argument("--port", type=int, default=18990)
    parser.add_argument(
        "--assets", type=Path, default=Path(os.environ.get("MICROVMD_ASSETS", "build/assets"))
    )
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.assets = options.assets.absolute()
    if options.serve:
        asyncio.run(serve(options.serve, options.assets, options.count))
        return
    found = measure(options.port, options.assets, options.count, options.seconds)
    milliseconds = found["milliseconds"]
    assert isinstance(milliseconds, list)
    table = Table("what", "value", title=f"{options.count} live MicroVMs on one page")
    table.add_row("updates in which most rows changed", str(found["updates"]))
    table.add_row("update of the page, median", f"{percentile(milliseconds, 0.5):.1f} ms")
    table.add_row("update of the page, longest", f"{max(milliseconds):.1f} ms")
    table.add_row(
        "processor time of the page for each, with all else it does in between",
        f"{found['page_milliseconds']:.1f} ms",
    )
    table.add_row("serving it, of one processor", f"{found['serve_share']:.1%}")
    table.add_row("the same with nobody looking", f"{found['serve_share_alone']:.1%}")
    console.print(table)
    write("console", found)


if __name__ == "__main__":
    main()
