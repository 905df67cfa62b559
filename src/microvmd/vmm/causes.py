"""The error behind a group of errors.

A TaskGroup wraps whatever ends it. Where one cause ends one machine or one MicroVM, callers want
that cause by its own type.
"""

from collections.abc import Iterator
from contextlib import contextmanager


def cause_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that is not a group itself."""
    first = group.exceptions[0]
    return cause_of(first) if isinstance(first, BaseExceptionGroup) else first


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the cause instead of the group that the body ended with."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise cause_of(group) from group
