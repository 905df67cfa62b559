"""Who makes something happen, known to whatever is decided below: the actor of events.

A context variable, because every decision has an actor and hardly any asks for it. Tasks inherit
it, and the store takes it along into its thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from microvmd.model.event import SERVICE, Actor

_acting: ContextVar[Actor] = ContextVar("acting", default=SERVICE)


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Everything that is decided in this context is this actor's doing."""
    token = _acting.set(actor)
    try:
        yield
    finally:
        _acting.reset(token)


def current_actor() -> Actor:
    return _acting.get()
