"""A real `microvmd serve` of a test's own: started, killed, restarted, and looked at from outside.

Each has its own root, run directory, ports, names, addresses, user ids and AWS files, so that any
number run beside one another and beside the machine's own service. Bases, kernels and layers come
from the machine's cache. What a service holds is read from the kernel (processes, cgroups, mounts,
interfaces, tables), never from the service's own word.
"""

import ast
import contextlib
import hashlib
import io
import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from microvmd.cli.waiting import poll
from tests.accelerated import PATIENCE
from tests.accelerated import VARIABLE as ACCELERATOR_VARIABLE
from tests.checkout import CHECKOUT
from tests.edgelab import free_port
from tests.holdings import KEEPER, UIDS, Holdings, Place
from tests.nodelab import VMM_VARIABLE

SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")
ACCOUNT = "123456789012"
REGION = "us-east-1"
PROFILE = "microvmd"
BUCKET = "artifacts"
POOL = 2
MAPPED_SUBNET = "subnet-mapped"
"""Of network connectors: leads to the private address of `netlab.internet`."""
NAMED_SUBNET = {"subnet-pypi": {"names": ["pypi.org", "*.pythonhosted.org"]}}
"""As the documentation has the operator map it."""
START_LIMIT = 90.0 * PATIENCE
STATE_LIMIT = 60.0 * PATIENCE
BUILD_LIMIT = 280.0 * PATIENCE
STOP_LIMIT = 30.0 * PATIENCE
SETTLE_LIMIT = 15.0 * PATIENCE
ISOLATION_VARIABLE = "MICROVMD_TEST_ISOLATION"
MACHINE_SETTINGS = {
    VMM_VARIABLE: "VMM_KIND",
    ACCELERATOR_VARIABLE: "VMM_ACCELERATOR",
    ISOLATION_VARIABLE: "BUILD_ISOLATION",
}
"""How all tests of a run are told to run their machines, and the settings of a service for that."""
TOKEN_HEADER = "X-aws-proxy-auth"
PORT_HEADER = "X-aws-proxy-port"
MICROVM_HOOKS: dict[str, Any] = {
    "run": "ENABLED",
    "runTimeoutInSeconds": 20,
    "resume": "ENABLED",
    "resumeTimeoutInSeconds": 20,
    "suspend": "ENABLED",
    "suspendTimeoutInSeconds": 20,
    "terminate": "ENABLED",
    "terminateTimeoutInSeconds": 20,
}
ALL_HOOKS = {
    "port": 9000,
    "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 60},
    "microvmHooks": MICROVM_HOOKS,
}
AUTO_RESUME = {
    "maxIdleDurationSeconds": 900,
    "suspendedDurationSeconds": 3600,
    "autoResumeEnabled": True,
}
Found = TypeVar("Found")


def until(ask: Callable[[], Found | None], limit: float, what: str) -> Found:
    """The first answer that is not None; the test fails when there is none in time."""
    found = poll(ask, limit=limit)
    assert found is not None, f"not within {limit:.0f} s: {what}"
    return found


@dataclass
class Image:
    """One version of an image."""

    arn: str
    version: str


@dataclass
class Microvm:
    """A MicroVM as its user sees it."""

    service: "Service"
    id: str
    endpoint: str

    @cached_property
    def token(self) -> str:
        return self.service.token(self.id)

    def get(self) -> dict[str, Any]:
        found: dict[str, Any] = self.service.api.get_microvm(microvmIdentifier=self.id)
        return found

    @property
    def state(self) -> str:
        return str(self.get()["state"])

    def wait(self, state: str, limit: float = STATE_LIMIT) -> dict[str, Any]:
        def ask() -> dict[str, Any] | None:
            found = self.get()
            if found["state"] != state and found["state"] == "TERMINATED":
                raise AssertionError(f"{self.id} is TERMINATED: {found.get('stateReason')}")
            return found if found["state"] == state else None

        return until(ask, limit, f"{self.id} {state}")

    def suspend(self) -> None:
        self.service.api.suspend_microvm(microvmIdentifier=self.id)
        self.wait("SUSPENDED")

    def resume(self) -> None:
        self.service.api.resume_microvm(microvmIdentifier=self.id)
        self.wait("RUNNING")

    def terminate(self) -> dict[str, Any]:
        self.service.api.terminate_microvm(microvmIdentifier=self.id)
        return self.wait("TERMINATED")

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        port: int | None = None,
        token: str | None = None,
        **options: Any,
    ) -> httpx.Response:
        """One request on a connection of its own, with the certificate verified."""
        headers = {TOKEN_HEADER: self.token if token is None else token}
        if port is not None:
            headers[PORT_HEADER] = str(port)
        with self.service.http() as client:
            url = f"https://{self.endpoint}{path}"
            return client.request(method, url, headers=headers, **options)

    def text(self, path: str = "/") -> str:
        answer = self.request(path=path)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.text

    def execute(self, code: str) -> Any:
        """The value of the last expression of Python code, run by examples/interpreter."""
        answer = self.request("POST", "/execute", json={"code": code})
        assert answer.status_code == 200, (answer.status_code, answer.text)
        found = answer.json()
        assert found["error"] is None, found["error"]
        return None if found["result"] is None else ast.literal_eval(found["result"])

    @property
    def vmm(self) -> int | None:
        """The pid of its VMM: the process whose cgroup has its name."""
        return self.service.vmms().get(self.id)


@dataclass
class Service(Holdings):
    """One service. Use `service`, which also ends it and looks for what it left."""

    api_port: int = field(default_factory=free_port)
    edge_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    extra: dict[str, str] = field(default_factory=dict)
    """Settings beside those of every service, as MICROVMD_* without the prefix."""
    _images: dict[str, Image] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.directory / "serve.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def ca_file(self) -> Path:
        return self.root / "ca" / "ca.pem"

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
                [str(Path(sys.executable).parent / "microvmd"), "serve"],
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
        self.__dict__.pop("api", None)

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

    # -- clients -----------------------------------------------------------------------------

    @cached_property
    def session(self) -> boto3.Session:
        import configparser

        found = configparser.ConfigParser()
        found.read(self.environment["AWS_SHARED_CREDENTIALS_FILE"])
        keys = found[PROFILE]
        return boto3.Session(
            aws_access_key_id=keys["aws_access_key_id"],
            aws_secret_access_key=keys["aws_secret_access_key"],
            region_name=REGION,
        )

    @cached_property
    def api(self) -> Any:
        return self.client("lambda-microvms")

    def client(self, name: str) -> Any:
        """An unmodified boto3 client."""
        config = Config(
            retries={"total_max_attempts": 1},
            read_timeout=120 * PATIENCE,
            s3={"addressing_style": "path"},
        )
        return self.session.client(name, endpoint_url=self.url, config=config)  # type: ignore[call-overload]

    def http(self) -> httpx.Client:
        """Trusts the endpoints' certificate authority and no other."""
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        return httpx.Client(verify=trust, timeout=90 * PATIENCE, trust_env=False)

    def token(self, microvm_id: str, ports: Any = None) -> str:
        answer = self.api.create_microvm_auth_token(
            microvmIdentifier=microvm_id,
            expirationInMinutes=60,
            allowedPorts=ports or [{"allPorts": {}}],
        )
        return str(answer["authToken"][TOKEN_HEADER])

    # -- images ------------------------------------------------------------------------------

    def image(self, name: str, files: Mapping[str, bytes], **options: Any) -> Image:
        """A CREATED image of these files, built once for the same content and options."""
        digest = hashlib.sha256(repr((name, sorted(files.items()), options)).encode()).hexdigest()
        made = self._images.get(digest)
        if made is None:
            made = self.begin_image(f"{name}-{digest[:8]}", files, **options)
            self._images[digest] = made
        assert self.built(made) == "SUCCESSFUL", self.build(made)
        return made

    def begin_image(self, name: str, files: Mapping[str, bytes], **options: Any) -> Image:
        """CreateMicrovmImage; the build goes on."""
        answer = self.api.create_microvm_image(
            name=name,
            baseImageArn=f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
            buildRoleArn=f"arn:aws:iam::{ACCOUNT}:role/build",
            codeArtifact={"uri": self.upload(name, files)},
            **options,
        )
        return Image(answer["imageArn"], answer["imageVersion"])

    def log_lines(self, group: str, stream: str) -> list[str]:
        """Messages of a log, oldest first; builds have the stream build/<version>/<buildId>."""
        query = httpx.QueryParams(group=group, stream=stream)
        lines = self._signed(f"/logs?{query}").splitlines()
        return [json.loads(line)["message"] for line in lines]

    def facts(self, microvm_id: str) -> dict[str, Any]:
        """What AWS does not tell about a MicroVM."""
        found: dict[str, Any] = json.loads(self._signed(f"/microvms/{microvm_id}"))
        return found

    def change_egress(self, microvm_id: str, connectors: list[str]) -> None:
        """Give a MicroVM other connectors while it lives."""
        body = json.dumps({"egressNetworkConnectors": connectors}).encode()
        self._signed(f"/microvms/{microvm_id}/egress", "PUT", body)

    def _signed(self, path: str, method: str = "GET", body: bytes = b"") -> str:
        request = AWSRequest(method, f"{self.url}/microvmd/v1{path}", data=body)
        keys = self.session.get_credentials()
        assert keys is not None
        SigV4Auth(keys.get_frozen_credentials(), "lambda", REGION).add_auth(request)
        headers = dict(request.headers.items())
        answer = httpx.request(
            method,
            str(request.url),
            headers=headers,
            content=body,
            timeout=30 * PATIENCE,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        return answer.text

    def upload(self, name: str, files: Mapping[str, bytes]) -> str:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path, data in files.items():
                entry = zipfile.ZipInfo(path)
                entry.external_attr = (stat.S_IFREG | 0o755) << 16
                archive.writestr(entry, data)
        s3 = self.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key=f"{name}.zip", Body=content.getvalue())
        return f"s3://{BUCKET}/{name}.zip"

    def built(self, image: Image, limit: float = BUILD_LIMIT) -> str:
        """The final state of a version: SUCCESSFUL or FAILED."""

        def ask() -> str | None:
            found = self.api.get_microvm_image_version(
                imageIdentifier=image.arn, imageVersion=image.version
            )
            return found["state"] if found["state"] in ("SUCCESSFUL", "FAILED") else None

        return until(ask, limit, f"{image.arn} {image.version} built")

    def build(self, image: Image) -> dict[str, Any]:
        """The version's build, with its state and stateReason."""
        items = self.api.list_microvm_image_builds(
            imageIdentifier=image.arn, imageVersion=image.version
        )["items"]
        found: dict[str, Any] = items[0]
        return found

    def run(self, image: Image, *, wait: bool = True, **options: Any) -> Microvm:
        options.setdefault("idlePolicy", AUTO_RESUME)
        answer = self.api.run_microvm(imageIdentifier=image.arn, **options)
        microvm = Microvm(self, answer["microvmId"], answer["endpoint"])
        if wait:
            microvm.wait("RUNNING")
        return microvm

    def states(self) -> dict[str, str]:
        """Every MicroVM that was ever run, by id."""
        pages = self.api.get_paginator("list_microvms").paginate()
        return {item["microvmId"]: item["state"] for page in pages for item in page["items"]}

    # -- what the kernel knows ---------------------------------------------------------------

    def lasting(self) -> set[int]:
        """Processes that are there as long as the service is: its own, HAProxy, the local AWS."""
        own = set() if self.process is None else {self.process.pid}
        return own | self.node().keys() | self.haproxy().keys() | self.local_aws().keys()

    @property
    def node_pid(self) -> int:
        """The node's own."""
        return until(
            lambda: next((pid for pid, line in self.node().items() if KEEPER not in line), None),
            START_LIMIT,
            "a node runs",
        )

    def strays(self) -> list[str]:
        """What is there beyond the records, while the service runs and nothing is being changed."""
        return self.beyond(self.states(), self.lasting(), POOL)

    def check_strays(self) -> None:
        """Fail when something of an ended MicroVM or build stays."""
        last: list[str] = []

        def ask() -> bool | None:
            nonlocal last
            last = self.strays()
            return None if last else True

        assert poll(ask, limit=SETTLE_LIMIT) is True, f"left behind: {last}\n{self.said()}"

    def terminate_all(self) -> None:
        """End every MicroVM that a test left."""
        alive = [name for name, state in self.states().items() if state != "TERMINATED"]
        for name in alive:
            self.api.terminate_microvm(microvmIdentifier=name)
        for name in alive:
            Microvm(self, name, "").wait("TERMINATED")

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """End the service and what outlives it on purpose; raise when something else is left."""
        left: list[str] = []
        stopped = self.process is not None

        def ask() -> bool | None:
            left[:] = self.left(stopped=stopped)
            return None if left else True

        try:
            if self.process is not None:
                if self.process.poll() is None:
                    self.terminate_all()
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


@contextlib.contextmanager
def running_service(extra: Mapping[str, str] | None = None) -> Iterator[Service]:
    """A started service in a directory with a short name: UNIX sockets allow 107 bytes.

    ``extra`` are settings, as TRACES_ENDPOINT names traces.endpoint.
    """
    with tempfile.TemporaryDirectory(prefix="mvt") as directory:
        # The service's user must get through.
        Path(directory).chmod(0o711)
        service = Service(Path(directory), Place.claim(), extra=dict(extra or {}))
        try:
            service.start()
            yield service
        finally:
            service.close()


def folder(path: Path) -> dict[str, bytes]:
    """The files of an example, as an artifact has them."""
    return {
        str(item.relative_to(path)): item.read_bytes()
        for item in sorted(path.rglob("*"))
        if item.is_file() and "__pycache__" not in item.parts
    }


def interpreter(service: Service) -> Image:
    """examples/interpreter with all its hooks."""
    files = folder(CHECKOUT / "examples" / "interpreter")
    return service.image("interpreter", files, hooks=ALL_HOOKS)
