"""What a call came to, told the same way by every client under test."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from tests.clients.models import ClientModel


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer as the client hands it to its user: instants as aware datetimes.

    ``error`` is the name of the exception, and only where the client has a type for it.
    """

    status: int
    document: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    message: str | None = None

    @property
    def refusal(self) -> tuple[int, str | None]:
        return self.status, self.error


class Client(Protocol):
    """One unmodified AWS client."""

    name: str
    model: ClientModel

    def call(self, operation: str, /, **members: Any) -> Outcome: ...

    def items(self, operation: str, page_size: int, /, **members: Any) -> list[dict[str, Any]]:
        """Everything that a listing has, by the client's own paginator."""
        ...

    def close(self) -> None: ...


def instant(value: object) -> float:
    """Seconds since the epoch of what a client made of a timestamp; nothing else passes."""
    assert isinstance(value, datetime), f"not a date: {value!r}"
    assert value.tzinfo is not None
    return value.timestamp()
