"""File locks between builds, of one process or several.

``flock`` belongs to the open file, not to the process that asked. So the wait is done by the
``flock`` program on our own descriptor: it can be cancelled at once, which a thread that waits in
the system call cannot.
"""

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from microvmd.vmm.process import run


@contextlib.asynccontextmanager
async def exclusive(
    path: Path, *, timeout_seconds: float, on_wait: Callable[[], None] | None = None
) -> AsyncIterator[None]:
    """Hold the lock file at ``path``; ``on_wait`` is called once if another holds it now."""
    with _opened(path) as descriptor:
        if not _taken(descriptor):
            if on_wait is not None:
                on_wait()
            argv = ["flock", "--exclusive", str(descriptor)]
            await run(argv, timeout=timeout_seconds, fds=(descriptor,))
        yield


@contextlib.contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file at ``path`` if nobody else does; yields whether that is so."""
    with _opened(path) as descriptor:
        yield _taken(descriptor)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
