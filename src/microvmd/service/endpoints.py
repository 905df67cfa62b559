"""What the edge asks about an endpoint, answered by the control plane and the node."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from microvmd.control.microvms import MicroVms
from microvmd.edge.resolve import Answer, Forward, Refuse
from microvmd.edge.shell import ShellDoor
from microvmd.messages.shell import OpenShell, ShellEnd, ShellEnded, Terminal
from microvmd.model.connector import allows_http, allows_shell


@dataclass(slots=True)
class Endpoints:
    """Both parts come later than the edge, which is made first."""

    microvms: MicroVms | None = field(default=None)
    node: OpenShell | None = field(default=None)

    @property
    def shells(self) -> ShellDoor:
        return ShellDoor(self.locate_for_shell, self.open_shell)

    async def locate(self, endpoint_id: str) -> Answer:
        """For a request."""
        return await self._located(endpoint_id, allows_http)

    async def locate_for_shell(self, endpoint_id: str) -> Answer:
        return await self._located(endpoint_id, allows_shell)

    @asynccontextmanager
    async def open_shell(self, endpoint_id: str) -> AsyncIterator[Terminal]:
        """A shell until the context ends. Raises ShellEnded."""
        assert self.microvms is not None
        found = await self.microvms.route_to(endpoint_id, allows_shell)
        if found.microvm_id is None:
            raise ShellEnded(ShellEnd.NOT_RUNNING)
        assert self.node is not None
        async with self.node(found.microvm_id) as terminal:
            yield terminal

    async def _located(self, endpoint_id: str, allows: Callable[[Sequence[str]], bool]) -> Answer:
        assert self.microvms is not None
        found = await self.microvms.route_to(endpoint_id, allows)
        if found.address is not None:
            return Forward(found.address)
        if found.known and found.allowed:
            return Refuse()
        # An endpoint that does not exist and one without ingress look alike from outside.
        return Refuse(403, "Token authentication failed")
