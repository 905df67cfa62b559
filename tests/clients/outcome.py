"""What a call came to, told the same way by every client under test."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from tests.clients.live import KEY, REGION
from tests.clients.models import ClientModel


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer as the client hands it to its user: instants as aware datetimes.

    ``error`` is the name of a refusal; ``typed`` tells that the client raised its own exception of
    that name, not a general one.
    """

    status: int
    document: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    message: str | None = None
    typed: bool = True

    @property
    def refusal(self) -> tuple[int, str | None]:
        """Status and name of the exception that a user would catch."""
        return self.status, self.error if self.typed else f"untyped {self.error}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a client says it is, and where."""

    access_key: str = KEY.access_key
    secret_key: str = KEY.secret_key
    region: str = REGION


OWNER = Caller()
"""The one whose keys the live API knows."""


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
