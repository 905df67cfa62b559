"""A real `microvmd serve` of a test's own, as its users see it: boto3, endpoints, logs, files.

What it holds and leaves is looked at from outside (`serviceprocess.py`, `holdings.py`).
"""

import ast
import contextlib
import hashlib
import io
import json
import ssl
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from microvmd.cli.waiting import poll
from tests.accelerated import PATIENCE
from tests.checkout import CHECKOUT
from tests.holdings import Place
from tests.serviceprocess import ACCOUNT, POOL, PROFILE, SETTLE_LIMIT, ServiceProcess, until

REGION = "us-east-1"
BUCKET = "artifacts"
STATE_LIMIT = 60.0 * PATIENCE
BUILD_LIMIT = 280.0 * PATIENCE
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
class Service(ServiceProcess):
    """One service as its users see it. `running_service` also ends it."""

    _images: dict[str, Image] = field(default_factory=dict)

    def wait_healthy(self) -> None:
        super().wait_healthy()
        self.__dict__.pop("api", None)

    def close(self) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                self.terminate_all()
        finally:
            super().close()

    @property
    def ca_file(self) -> Path:
        return self.root / "ca" / "ca.pem"

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

    def image(self, name: str, files: Mapping[str, bytes], **options: Any) -> Image:
        """A CREATED image of these files, built once for the same content and options."""
        digest = hashlib.sha256(repr((name, sorted(files.items()), options)).encode()).hexdigest()
        made = self._images.get(digest)
        if made is None:
            made = self.begin_image(f"{name}-{digest[:8]}", files, **options)
            self._images[digest] = made
        assert self.built(made) == "SUCCESSFUL", "\n".join(
            [str(self.build(made)), *self.build_lines(made)]
        )
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

    def build_lines(self, image: Image) -> list[str]:
        """The log of the version's build."""
        group = f"/aws/lambda-microvms/{image.arn.rpartition(':')[2]}"
        return self.log_lines(group, f"build/{image.version}/{self.build(image)['buildId']}")

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
