"""The AWS CLI: a process for each call, arguments as its users type them."""

import importlib.resources
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore import xform_name
from botocore.model import ListShape, MapShape, Shape, StructureShape

from microvmd.api.operations import SERVICES, load_operations
from tests.clients.live import LiveApi
from tests.clients.models import ClientModel
from tests.clients.outcome import OWNER, Caller, Outcome
from tests.clients.served import AWSCLI

_OPERATIONS = {operation.name: operation for operation in load_operations()}
_REFUSAL = re.compile(
    r"An error occurred \((?P<name>\w+)\) when calling the (?P<operation>\w+) operation"
    r"(?: \(reached max retries: \d+\))?: (?P<message>.*)",
    re.DOTALL,
)


class AwsCli:
    """Has no way to tell the status of an answer, so that is what the server says it sent."""

    name = AWSCLI

    def __init__(self, api: LiveApi, home: Path, caller: Caller = OWNER) -> None:
        self._api = api
        self.model = ClientModel.of_service_files(_own_models())
        (home / "config").write_text("[default]\ncli_timestamp_format = iso8601\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AWS_CONFIG_FILE": str(home / "config"),
            "AWS_ENDPOINT_URL": api.url,
            "AWS_DEFAULT_REGION": caller.region,
            "AWS_ACCESS_KEY_ID": caller.access_key,
            "AWS_SECRET_ACCESS_KEY": caller.secret_key,
            "AWS_MAX_ATTEMPTS": "1",
        }

    def call(self, operation: str, /, **members: Any) -> Outcome:
        # A listing is asked for all pages unless told otherwise; here one call is one request.
        paging = ["--no-paginate"] if operation.startswith("List") else []
        done = self._aws(operation, *_arguments(members), *paging)
        sent = list(self._api.served.of(self.name, operation))
        assert sent, f"nothing arrived: {done.stderr}"
        if done.returncode == 0:
            return Outcome(sent[-1].status, _document(operation, done.stdout))
        refusal = _REFUSAL.search(done.stderr)
        assert refusal, done.stderr
        assert refusal["operation"] == operation
        return Outcome(
            sent[-1].status, error=refusal["name"], message=refusal["message"].removesuffix("\n")
        )

    def items(self, operation: str, page_size: int, /, **members: Any) -> list[dict[str, Any]]:
        done = self._aws(operation, *_arguments(members), f"--page-size={page_size}")
        assert done.returncode == 0, done.stderr
        document = _document(operation, done.stdout)
        (found,) = (value for value in document.values() if isinstance(value, list))
        return found

    def close(self) -> None:
        """Nothing outlives a call."""

    def _aws(self, operation: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).parent / "aws"
        command = xform_name(operation, "-")
        return subprocess.run(
            [str(program), _OPERATIONS[operation].service, command, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def _own_models() -> Iterator[Any]:
    """The AWS CLI 1 carries a botocore of its own, older than ours."""
    root = importlib.resources.files("awscli") / "botocore" / "data"
    for service, version in SERVICES:
        yield json.loads((root / service / version / "service-2.json").read_text())


def _arguments(members: dict[str, Any]) -> list[str]:
    """``maxResults=2`` is ``--max-results=2``; what is not a word goes as JSON."""
    return [f"--{xform_name(name, '-')}={_argument(value)}" for name, value in members.items()]


def _argument(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _document(operation: str, text: str) -> dict[str, Any]:
    shape = _OPERATIONS[operation].output
    found: dict[str, Any] = {}
    if shape is not None and text.strip():
        found = _read(shape, json.loads(text))
    return found


def _read(shape: Shape, value: Any) -> Any:
    """JSON with its instants read, where the model has them."""
    match shape:
        case StructureShape():
            return {name: _read(shape.members[name], item) for name, item in value.items()}
        case ListShape():
            return [_read(shape.member, item) for item in value]
        case MapShape():
            return {key: _read(shape.value, item) for key, item in value.items()}
    return datetime.fromisoformat(value) if shape.type_name == "timestamp" else value
