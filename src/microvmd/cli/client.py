"""The commands' way to the service: boto3 through the AWS profile, and signed calls beside it.

Nothing here knows how the service works inside; a command can do no more than any AWS client.
"""

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError

from microvmd.cli.failure import START
from microvmd.messages.node_requests import LogLine
from microvmd.model.connector import Ingress, managed_arn
from microvmd.model.hooks import APPLICATION_PORT
from microvmd.service.failure import Failure
from microvmd.service.routes import PREFIX
from microvmd.settings.settings import Settings

if TYPE_CHECKING:
    from types_boto3_lambda_microvms import LambdaMicroVMsClient
    from types_boto3_lambda_microvms.type_defs import IdlePolicyTypeDef, MicrovmItemTypeDef
    from types_boto3_s3 import S3Client

MANAGED_BASE = "al2023-1"
LIVE = ("PENDING", "RUNNING", "SUSPENDING", "SUSPENDED")
# A request to a SUSPENDED MicroVM is held while it resumes; nothing answers later than this.
ENDPOINT_SECONDS = 90.0
TOKEN_HEADER = "X-aws-proxy-auth"  # noqa: S105 - the name of a header
PORT_HEADER = "X-aws-proxy-port"
TOKEN_MINUTES = 60
# Without an idle policy a request to a SUSPENDED MicroVM is answered with 502, as on AWS.
IDLE_SECONDS = 900
SUSPENDED_SECONDS = 28_800


@dataclass(frozen=True)
class Service:
    """One service, found through the settings' AWS profile."""

    settings: Settings

    @cached_property
    def session(self) -> boto3.Session:
        return boto3.Session(profile_name=self.settings.profile)

    @cached_property
    def microvms(self) -> "LambdaMicroVMsClient":
        # A retried RunMicrovm waits in vain: the service is on this machine, it answers or is off.
        config = Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=120)
        return self.session.client("lambda-microvms", config=config)

    @cached_property
    def s3(self) -> "S3Client":
        return self.session.client("s3", config=Config(s3={"addressing_style": "path"}))

    @property
    def region(self) -> str:
        return self.session.region_name or self.settings.region

    @property
    def endpoint_url(self) -> str:
        return str(self.microvms.meta.endpoint_url)

    @cached_property
    def account(self) -> str:
        return self.session.client("sts").get_caller_identity()["Account"]

    def image_arn(self, name: str) -> str:
        """Accepts an ARN as it is; a name is one of this account."""
        if name.startswith("arn:"):
            return name
        return f"arn:aws:lambda:{self.region}:{self.account}:microvm-image:{name}"

    @property
    def base_image_arn(self) -> str:
        return f"arn:aws:lambda:{self.region}:aws:microvm-image:{MANAGED_BASE}"

    @property
    def shell_connectors(self) -> list[str]:
        """Ingress connectors of a MicroVM that takes requests and allows shells."""
        return [managed_arn(name, self.region) for name in (Ingress.HTTP, Ingress.SHELL)]

    @property
    def build_role_arn(self) -> str:
        return f"arn:aws:iam::{self.account}:role/microvmd-build"

    def list_microvms(self) -> "list[MicrovmItemTypeDef]":
        """All of them, ended ones too."""
        found: list[MicrovmItemTypeDef] = []
        for page in self.microvms.get_paginator("list_microvms").paginate():
            found.extend(page["items"])
        return found

    def find_microvm(self, text: str) -> str:
        """The id that ``text`` is or begins, with or without ``microvm-``. Raises Failure."""
        wanted = text if text.startswith("microvm-") else f"microvm-{text}"
        if len(wanted) == len("microvm-") + 36:
            return wanted
        items = [item for item in self.list_microvms() if item["microvmId"].startswith(wanted)]
        live = [item for item in items if item["state"] in LIVE]
        matching = [item["microvmId"] for item in live or items]
        if len(matching) == 1:
            return matching[0]
        if not matching:
            raise Failure(f"no MicroVM begins with {wanted}", "see what there is: microvmd ps")
        raise Failure(f"{wanted} begins {len(matching)} MicroVMs", "give more of the id")

    def facts(self, microvm_id: str) -> dict[str, Any]:
        """``extensions.MicrovmFacts`` as JSON: VMM, address, timings, where the log is."""
        with self._open(f"/microvms/{microvm_id}", {}) as answer:
            facts: dict[str, Any] = json.loads(answer.read())
        return facts

    def logs(
        self, group: str, stream: str, *, since: float = 0, follow: bool = False
    ) -> Iterator[LogLine]:
        """Lines of a log as they come; with ``follow`` until the caller stops asking."""
        query = {"group": group, "stream": stream, "since": repr(since)}
        query["follow"] = "true" if follow else "false"
        for line in self.stream("/logs", query):
            yield LogLine(**line)

    def stream(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """One JSON object after another, as they come: ``/logs``, ``/events`` and ``/audit``."""
        with self._open(path, query) as answer:
            for line in _lines(answer):
                one: dict[str, Any] = json.loads(line)
                yield one

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 - JSON of one of our own endpoints
        """A signed request to one of our own endpoints; an error is a Failure."""
        content = b"" if body is None else json.dumps(body).encode()
        with self._open(path, query or {}, method, content) as answer:
            return json.loads(answer.read())

    @contextmanager
    def _open(
        self, path: str, query: Mapping[str, str], method: str = "GET", content: bytes = b""
    ) -> Iterator[httpx.Response]:
        """A signed request to one of our own endpoints; anything but 200 is a Failure."""
        url = str(httpx.URL(f"{self.endpoint_url}{PREFIX}{quote(path)}", params=query))
        request = AWSRequest(method, url, data=content)
        credentials = self.session.get_credentials()
        if credentials is None:
            raise Failure(f"profile {self.settings.profile} has no keys", START)
        SigV4Auth(credentials.get_frozen_credentials(), "lambda", self.region).add_auth(request)
        headers = dict(request.headers.items())
        limits = httpx.Timeout(10, read=None)
        with (
            httpx.Client(timeout=limits, trust_env=False) as client,
            client.stream(method, url, headers=headers, content=content) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise Failure(_message(answer))
            yield answer

    def token(self, microvm_id: str, port: int = APPLICATION_PORT) -> str:
        """An auth token for one port of a MicroVM."""
        answer = self.microvms.create_microvm_auth_token(
            microvmIdentifier=microvm_id,
            expirationInMinutes=TOKEN_MINUTES,
            allowedPorts=[{"port": port}],
        )
        return answer["authToken"][TOKEN_HEADER]

    def shell_token(self, microvm_id: str, minutes: int = TOKEN_MINUTES) -> str:
        """A token for shells in a MicroVM. Raises Failure when it was run without them."""
        try:
            answer = self.microvms.create_microvm_shell_auth_token(
                microvmIdentifier=microvm_id, expirationInMinutes=minutes
            )
        except ClientError as error:
            said = error.response.get("Error", {}).get("Message", "")
            if Ingress.SHELL.value not in said:
                raise
            raise Failure(said, "run one that allows shells: microvmd run --shell IMAGE") from error
        return answer["authToken"][TOKEN_HEADER]

    @property
    def ca_file(self) -> Path:
        """The certificate authority of this machine's endpoints."""
        return self.settings.root / "ca" / "ca.pem"

    def call(
        self,
        endpoint: str,
        path: str,
        *,
        token: str,
        method: str = "GET",
        port: int | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """One request to a MicroVM, over HTTPS with its certificate verified."""
        headers = {TOKEN_HEADER: token}
        if port is not None:
            headers[PORT_HEADER] = str(port)
        with self.endpoint_client() as client:
            url = f"https://{endpoint}/{path.lstrip('/')}"
            return client.request(method, url, headers=headers, content=content)

    def endpoint_client(self) -> httpx.Client:
        """Trusts the endpoints' certificate authority and no other."""
        return httpx.Client(verify=self.endpoint_trust(), timeout=ENDPOINT_SECONDS, trust_env=False)

    def endpoint_trust(self) -> ssl.SSLContext:
        """The endpoints' certificate authority and no other."""
        if not self.ca_file.is_file():
            raise Failure(f"{self.ca_file} is not there or not readable", START)
        return ssl.create_default_context(cafile=str(self.ca_file))


def idle_policy(
    idle: int = IDLE_SECONDS, suspended: int = SUSPENDED_SECONDS
) -> "IdlePolicyTypeDef":
    """Suspend when idle, resume on the next request."""
    return {
        "maxIdleDurationSeconds": idle,
        "suspendedDurationSeconds": suspended,
        "autoResumeEnabled": True,
    }


def _lines(answer: httpx.Response) -> Iterator[bytes]:
    """As they come. httpx's own reader breaks them at whatever Unicode breaks lines at, which JSON
    does not escape."""
    rest = b""
    for piece in answer.iter_bytes():
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.request.url.path} answered {answer.status_code}"
