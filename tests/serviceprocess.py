"""The processes of a real `microvmd serve` of a test's own: started, killed, restarted, ended.

Each has its own root, run directory, ports, names, addresses, user ids and AWS files, so that any
number run beside one another and beside the machine's own service. Bases, kernels and layers come
from the machine's cache. Its end fails when it leaves anything behind (`holdings.py`).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from microvmd.cli.waiting import poll
from tests.accelerated import PATIENCE
from tests.accelerated import VARIABLE as ACCELERATOR_VARIABLE
from tests.holdings import KEEPER, UIDS, WAITING, Holdings
from tests.lanes import free_port
from tests.nodelab import VMM_VARIABLE

SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")
ACCOUNT = "123456789012"
PROFILE = "microvmd"
POOL = 2
MAPPED_SUBNET = "subnet-mapped"
"""Of network connectors: leads to the private address of `netlab.internet`."""
NAMED_SUBNET = {"subnet-pypi": {"names": ["pypi.org", "*.pythonhosted.org"]}}
"""As the documentation has the operator map it."""
START_LIMIT = 90.0 * PATIENCE
STOP_LIMIT = 30.0 * PATIENCE
SETTLE_LIMIT = 15.0 * PATIENCE
ISOLATION_VARIABLE = "MICROVMD_TEST_ISOLATION"
MACHINE_SETTINGS = {
    VMM_VARIABLE: "VMM_KIND",
    ACCELERATOR_VARIABLE: "VMM_ACCELERATOR",
    ISOLATION_VARIABLE: "BUILD_ISOLATION",
}
"""How all tests of a run are told to run their machines, and the settings of a service for that."""
Found = TypeVar("Found")


def until(ask: Callable[[], Found | None], limit: float, what: str) -> Found:
    """The first answer that is not None; the test fails when there is none in time."""
    found = poll(ask, limit=limit)
    assert found is not None, f"not within {limit:.0f} s: {what}"
    return found


@dataclass
class ServiceProcess(Holdings):
    """One service, and all that it starts."""

    api_port: int = field(default_factory=free_port)
    edge_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    extra: dict[str, str] = field(default_factory=dict)
    """Settings beside those of every service, as MICROVMD_* without the prefix."""
    before: tuple[str, ...] = ()
    """What its command begins with."""

    @property
    def log(self) -> Path:
        return self.directory / "serve.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def environment(self) -> dict[str, str]:
        """For the service and for its clients."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "MICROVMD_"))
            or name in ("MICROVMD_CACHE", "MICROVMD_ASSETS")
        }
        settings = {
            "ROOT": self.root,
            "RUN": self.place.run,
            "ACCOUNT": ACCOUNT,
            "PROFILE": PROFILE,
            "API_PORT": self.api_port,
            "EDGE_PORT": self.edge_port,
            "NETWORK_PREFIX": self.place.prefix,
            "NETWORK_SUBNET": self.place.subnet,
            "NETWORK_POOL": POOL,
            # Nothing waits, unless a test is about that: it would be one more VMM at work.
            "POOL_MEMORY_MIB": 0,
            "NETWORK_SUBNETS": json.dumps({MAPPED_SUBNET: ["10.99.0.0/16"], **NAMED_SUBNET}),
            "VMM_UID_FIRST": self.place.first_uid,
            "VMM_UID_COUNT": UIDS,
            "BUILD_ISOLATION": "namespace",
            # A key that is disabled takes effect at once.
            "ENCRYPTION_KEY_CACHE_SECONDS": 0,
        }
        given = ((name, os.environ.get(variable)) for variable, name in MACHINE_SETTINGS.items())
        settings |= {name: value for name, value in given if value}
        settings |= self.extra
        if SYSTEM_CA.exists():
            settings["BUILD_CA_BUNDLE"] = SYSTEM_CA
        aws = self.directory / "aws"
        return {
            **kept,
            **{f"MICROVMD_{name}": str(value) for name, value in settings.items()},
            "AWS_CONFIG_FILE": str(aws / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(aws / "credentials"),
        }

    # -- the process -------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the process without waiting for it."""
        assert self.process is None
        self.root.mkdir(exist_ok=True)
        (self.directory / "aws").mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.before, str(Path(sys.executable).parent / "microvmd"), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def start(self) -> None:
        """Until the service says itself that it is healthy."""
        self.launch()
        self.wait_healthy()

    def wait_healthy(self) -> None:
        process = self.process
        assert process is not None

        def ask() -> bool | None:
            assert process.poll() is None, f"serve ended with {process.returncode}\n{self.said()}"
            try:
                answer = client.get(f"{self.url}/microvmd/v1/health")
            except httpx.HTTPError:
                return None
            return True if answer.status_code == 200 else None

        # One for all attempts: to make one takes the time that the service needs.
        with httpx.Client(verify=False, timeout=10 * PATIENCE, trust_env=False) as client:
            until(ask, START_LIMIT, f"a healthy service\n{self.said()}")

    def said(self, lines: int = 40) -> str:
        """The end of the service's log."""
        if not self.log.exists():
            return ""
        every = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in every if '"event": "answered"' not in line][-lines:])

    def kill(self) -> None:
        """kill -9: the service gets no chance to say goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as systemd does; ends with code 0."""
        code = self._end(signal.SIGTERM)
        assert code == 0, f"serve ended with {code}\n{self.said()}"

    def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        assert process is not None
        process.send_signal(number)
        try:
            return process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT)
            raise

    def lasting(self) -> set[int]:
        """Processes that are there as long as the service is: its own, HAProxy, the local AWS; and
        VMMs that wait, which come and go."""
        own = set() if self.process is None else {self.process.pid}
        own |= {pid for name, pid in self.vmms().items() if name.startswith(WAITING)}
        return own | self.node().keys() | self.haproxy().keys() | self.local_aws().keys()

    @property
    def node_pid(self) -> int:
        """The node's own."""
        return until(
            lambda: next((pid for pid, line in self.node().items() if KEEPER not in line), None),
            START_LIMIT,
            "a node runs",
        )

    def close(self) -> None:
        """End it, and what outlives it on purpose; fail when something else is left."""
        left: list[str] = []
        stopped = self.process is not None

        def ask() -> bool | None:
            left[:] = self.left(stopped=stopped)
            return None if left else True

        try:
            if self.process is not None:
                self.stop()
            for pid in (*self.haproxy(), *self.local_aws()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            poll(ask, limit=SETTLE_LIMIT)
        finally:
            self._by_force()
        assert not left, f"left behind by serve: {left}\n{self.said()}"

    def _by_force(self) -> None:
        """What the service should have cleared itself: other tests must not suffer from it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_LIMIT)
            self.process = None
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        poll(lambda: None if self.processes() else True, limit=SETTLE_LIMIT)
        self.remove_by_force()
