"""The lambda-core operations: network connectors of one's own, and runtimes.

microvmd offers the managed connectors only, so an account has no connector: it may list none,
finds none, and is told so when it makes one. Runtimes are customer runtimes of Lambda functions
and have nothing to do with MicroVMs: 501.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from microvmd.api.errors import NotOffered
from microvmd.api.operations import CORE, load_operations
from microvmd.api.requests import RequestContext
from microvmd.model.errors import NotFound

Request = Mapping[str, Any]


class ConnectorHandlers:
    """One method for each operation on network connectors."""

    async def list_network_connectors(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        return {"NetworkConnectors": []}

    async def create_network_connector(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        raise NotOffered(
            "This version of microvmd offers the managed network connectors only "
            "(HTTP_INGRESS, SHELL_INGRESS, ALL_INGRESS, NO_INGRESS, INTERNET_EGRESS)."
        )

    async def get_network_connector(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        raise _not_found(context, request)

    async def list_network_connector_versions(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        raise _not_found(context, request)

    async def update_network_connector(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        raise _not_found(context, request)

    async def delete_network_connector(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        raise _not_found(context, request)


class RuntimeHandlers:
    """Answers every operation on runtimes, as many as the model has of them."""

    def __init__(self) -> None:
        self._names = {
            operation.handler_name: operation.name
            for operation in load_operations()
            if operation.service == CORE and "Runtime" in operation.name
        }

    def __getattr__(
        self, name: str
    ) -> Callable[[RequestContext, Request], Awaitable[Mapping[str, Any]]]:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(name)
        operation = self._names[name]

        async def refuse(context: RequestContext, request: Request) -> Mapping[str, Any]:
            raise NotOffered(f"{operation} is not offered: microvmd has no Lambda runtimes.")

        return refuse


def _not_found(context: RequestContext, request: Request) -> NotFound:
    """Recorded: the ARN that the service makes of whatever identifier arrived."""
    identifier = request["Identifier"]
    prefix = f"arn:aws:lambda:{context.region}:{context.account}:network-connector:"
    arn = identifier if identifier.startswith("arn:") else f"{prefix}{identifier}"
    return NotFound(f"Network connector not found for: {arn}")
