"""The lambda-core operations on runtimes: customer runtimes of Lambda functions, which have nothing
to do with MicroVMs. 501."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from microvmd.api.errors import NotOffered
from microvmd.api.operations import CORE, load_operations
from microvmd.api.requests import RequestContext

Request = Mapping[str, Any]


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
