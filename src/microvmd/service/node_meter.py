"""The node's room, asked for within a decision: in the thread of the store, where nothing awaits.

While a node is started again its last answer holds: all decisions would wait otherwise.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from microvmd.messages.capacity import Measured
from microvmd.messages.node_requests import AskRoom, AskStored, Refused, RoomIs, StoredIs
from microvmd.messages.node_wire import FROM_NODE, HEADER_SIZE, TO_NODE, Header, WireError

LIMIT_S = 2.0

T = TypeVar("T")


@dataclass(slots=True)
class MeterClient:
    """Implements ``messages.capacity.Meter`` over the node's socket; of one thread.

    ``is_up`` tells whether there is a node.
    """

    path: Path
    is_up: Callable[[], bool]
    _last: Measured | None = None

    def measure(self) -> Measured:
        if self._last is None or self.is_up():
            try:
                found = self._ask(AskRoom(), RoomIs)
            except OSError:
                if self._last is None:
                    raise
            else:
                self._last = Measured(found.machine, found.taken_mib, found.waiting)
        assert self._last is not None
        return self._last

    def stored_mib(self, microvm_id: str) -> int:
        """0 while there is no node."""
        return self._ask(AskStored(microvm_id), StoredIs).mib if self.is_up() else 0

    def _ask(self, request: object, answer: type[T]) -> T:
        """Raises OSError also where the node says something else."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(LIMIT_S)
            connection.connect(str(self.path))
            connection.sendall(TO_NODE.encode(request))
            try:
                header = Header.parse(_exactly(connection, HEADER_SIZE))
                found = FROM_NODE.decode(_exactly(connection, header.length))
            except WireError as error:
                raise OSError(f"the node's answer: {error}") from error
        if isinstance(found, answer):
            return found
        reason = found.reason if isinstance(found, Refused) else type(found).__name__
        raise OSError(f"the node says {reason}")


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return bytes(data)
