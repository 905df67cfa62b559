"""Carries out requests for golden files and keeps each exchange as text under a name."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.clients.exchange import Names, exchange_text
from tests.clients.live import LiveApi
from tests.clients.raw import ask, send

AGENT = {"User-Agent": "microvmd-golden/1"}
RECORDED = "as recorded"
"""The real service was seen to answer so; see docs/reference/aws-api.md."""
CHOSEN = "as the model and the documents have it"
SECONDS = 30


@dataclass
class Recorder:
    """One story told to the API; ids keep their names over all of it."""

    api: LiveApi
    names: Names = field(default_factory=Names)
    texts: dict[str, str] = field(default_factory=dict)

    def __call__(
        self,
        name: str,
        note: str,
        method: str,
        path: str,
        document: Any = None,
        *,
        body: bytes | None = None,
        signed: bool = True,
    ) -> Any:
        """Keep the exchange as ``name``; gives the parsed answer for the requests that follow."""
        assert name not in self.texts, f"{name} is there twice"
        if body is None:
            body = b"" if document is None else json.dumps(document).encode()
        answer = send(self.api, method, path, body, AGENT, signed=signed)
        self.texts[name] = exchange_text(self.names, note, method, path, body, answer)
        is_json = answer.headers.get("content-type") == "application/json"
        return json.loads(answer.content) if answer.content and is_json else None

    def quietly(self, method: str, path: str, document: Any = None) -> Any:
        """A request that arranges something and is not kept."""
        return ask(self.api, method, path, document)[2]

    def until(self, path: str, wanted: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + SECONDS
        while not wanted(found := self.quietly("GET", path)):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found
