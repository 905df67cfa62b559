"""What all tests share: which may run here, what a failure shows, and that nothing is left behind.

Markers name a need (``vm``, ``root``, ...). Where the need is not met a test skips and says why;
with ``MICROVMD_CI`` set such a skip is a failure, so that CI never passes by not looking.
"""

import os
import random
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.checkout import ASSETS, folder_of

CI_VARIABLE = "MICROVMD_CI"
SEED_VARIABLE = "MICROVMD_TEST_SEED"
TOOLS = {
    "vm": ("qemu-system-x86_64", "nft", "haproxy", "mkfs.erofs", "mke2fs"),
    "journey": ("qemu-system-x86_64", "curl"),
    "faults": ("qemu-system-x86_64",),
    "browser": ("chromium",),
}
# What takes longest comes first, so that no worker ends long before another.
FOLDERS = (
    *("journey", "security", "vm", "faults", "kvm"),
    *("unit", "browser", "clients", "edge", "style"),
)
NEEDED_ASSETS = ("microvmd-agent", "microvmd-jailer", "kernel")
# One line per started process, so that a failure can be told from a hang in somebody else's test.
LOG_SUFFIXES = (".log",)
LOG_BYTES = 8000

# Fixtures that more than one folder uses live beside the folders, each named for what it guards.
sys.path.insert(0, str(Path(__file__).parent))
pytest_plugins = ["leaks"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-update",
        action="store_true",
        help="write the golden files and the coverage page of tests/clients anew",
    )


def pytest_configure(config: pytest.Config) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))
    os.environ[SEED_VARIABLE] = str(seed)
    config.stash[_SEED] = seed
    _log_plainly()
    # A shell ignores it for what it runs in the background, and all that we start inherits that:
    # no Ctrl-C would end a command in a terminal of the tests.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.stash[_SEED]} (repeat with {SEED_VARIABLE}={config.stash[_SEED]})"


_SEED = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Each test draws the same numbers for the same seed, alone or among others."""
    where = f"{request.node.location[0]}::{request.node.name}"
    random.seed(f"{request.config.stash[_SEED]}:{where}")


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A test of a command sets the log up for its process, which goes on with other tests."""
    yield
    structlog.reset_defaults()
    _log_plainly()


def _log_plainly() -> None:
    """As a service does: an error drawn with all of its variables holds a test up for seconds on an
    emulated processor, and with it the event loop."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        order = {folder: place for place, folder in enumerate(FOLDERS)}
        items.sort(key=lambda item: order.get(folder_of(item.nodeid), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``--dist=loadscope``."""
    if config.getvalue("dist") != "loadscope":
        return None
    from tests.scheduling import FolderScheduling  # the KVM host has no xdist

    return FolderScheduling(config, log)


def missing_need(item: pytest.Item) -> str | None:
    """Why a test cannot run on this machine, or None."""
    needs = {marker.name for marker in item.iter_markers()}
    if needs & {"root", "vm", "journey", "faults", "security"} and os.geteuid() != 0:
        return "needs root"
    for need in needs & set(TOOLS):
        for tool in TOOLS[need]:
            if shutil.which(tool) is None:
                return f"needs {tool}: ./run setup installs it"
        for asset in NEEDED_ASSETS:
            if not (ASSETS / asset).exists():
                return f"needs {asset} in build/assets: ./run setup makes it"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = missing_need(item)
    if reason is not None:
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(CI_VARIABLE):
        where = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"a skip is a failure under {CI_VARIABLE}: {where}"
    if report.when == "call" and report.failed:
        for name, text in _logs(item):
            report.sections.append((f"end of {name}", text))
    return report


def _logs(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """The end of every log below the test's own directories (VMM, serial console, server)."""
    arguments = getattr(item, "funcargs", {})
    places = [arguments.get("tmp_path"), getattr(arguments.get("service"), "directory", None)]
    for directory in places:
        if not isinstance(directory, Path) or not directory.is_dir():
            continue
        for path in sorted(directory.rglob("*")):
            if path.suffix in LOG_SUFFIXES and path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - LOG_BYTES))
                    yield str(path.relative_to(directory)), file.read().decode(errors="replace")
