"""What a node tells about its room."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from microvmd.model.capacity import Machine


@dataclass(frozen=True, slots=True)
class Measured:
    """``taken_mib`` is private memory of each VMM, by the MicroVM's id. It may be a second old.
    ``waiting`` VMMs have no guest yet."""

    machine: Machine
    taken_mib: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0


class Meter(Protocol):
    """Asked within a decision, in the thread of the store: an answer takes milliseconds."""

    def measure(self) -> Measured:
        """Raises OSError when the kernel does not tell."""

    def stored_mib(self, microvm_id: str) -> int:
        """What a resume of this SUSPENDED MicroVM writes back into its memory."""
