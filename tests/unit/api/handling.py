"""All handlers on a control plane whose node and edge are in memory, called by operation name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from microvmd.api.handlers import control_handlers
from microvmd.api.invoke import dispatch_table
from microvmd.api.operations import load_operations
from microvmd.api.requests import RequestContext
from microvmd.api.serialize import serialize_response
from microvmd.control.tokens import TokenIssuer
from microvmd.messages.node import Started
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, REGION, Plane, plane

NOW = datetime(2026, 7, 30, tzinfo=UTC)
CONTEXT = RequestContext(ACCOUNT, REGION, "AKIA", "number", NOW)
MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"


@dataclass
class Api:
    """Calls handlers by operation name; every result must fit the model."""

    plane: Plane
    issuer: TokenIssuer

    def __post_init__(self) -> None:
        self._operations = {operation.name: operation for operation in load_operations()}
        handlers = control_handlers(
            self.plane.images,
            self.plane.microvms,
            self.issuer,
            connectors=self.plane.connectors,
            managed=self.plane.managed,
            endpoint_name=lambda endpoint_id: f"{endpoint_id}.test",
        )
        self.table = dispatch_table(load_operations(), handlers)

    async def __call__(self, name: str, /, **request: Any) -> dict[str, Any]:
        result = await self.table[name](CONTEXT, request)
        serialize_response(self._operations[name], result)
        return dict(result)

    async def running(self, **request: Any) -> str:
        """A MicroVM that its node has reported."""
        started = await self("RunMicrovm", imageIdentifier=IMAGE_ARN, **request)
        microvm: str = started["microvmId"]
        await self.plane.microvms.report(Started(microvm, 1, "10.0.0.2"))
        return microvm


@asynccontextmanager
async def handled(directory: Path) -> AsyncIterator[Api]:
    async with plane(directory) as found:
        yield Api(found, TokenIssuer(directory / "keys", clock=NOW.timestamp))
