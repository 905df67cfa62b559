"""A way for the service's user to code that lies in a closed directory, such as root's home.

A checkout below ``/root`` (0700) is what most people have who try the product. Nothing is opened
for others: the service gets a mount namespace of its own, in which the closed directory is an empty
one that has the code alone, at the path that it always had.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

import structlog

from microvmd.service.user import ServiceUser, acting_as

log = structlog.get_logger(__name__)

# include/uapi/linux/sched.h, mount.h
CLONE_NEWNS = 0x00020000
MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19


def closed(path: Path, user: ServiceUser) -> Path | None:
    """The topmost directory above ``path`` that the user may not pass; None when there is none."""
    with acting_as(user):
        for parent in reversed(path.absolute().parents):
            if not os.access(parent, os.X_OK, effective_ids=True):
                return parent
    return None


def open_way(paths: Iterable[Path], user: ServiceUser) -> None:
    """Let the user reach directories that closed ones hide, in a mount namespace of this process
    and of what it starts from now on.

    Needs root, and the thread that calls this must be the only one. Raises OSError.
    """
    hidden = {path.absolute(): top for path in paths if (top := closed(path, user)) is not None}
    if not hidden:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(CLONE_NEWNS), "unshare")
    # What is mounted on the machine later is seen here, and nothing of ours there.
    _mount(libc, "none", "/", None, MS_REC | MS_SLAVE)
    # Opened in the new namespace: a mount of the old one cannot be bound here.
    found = {path: os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in hidden}
    try:
        for top in sorted(set(hidden.values())):
            _mount(libc, "tmpfs", str(top), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
        for path, fd in found.items():
            path.mkdir(parents=True)
            _mount(libc, f"/proc/self/fd/{fd}", str(path), None, MS_BIND | MS_REC)
    finally:
        for fd in found.values():
            os.close(fd)
    log.info("serve.way_opened", directories=sorted(map(str, set(hidden.values()))))


def _mount(
    libc: ctypes.CDLL, source: str, target: str, kind: str | None, flags: int, options: str = ""
) -> None:
    code = libc.mount(
        source.encode(),
        target.encode(),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    _check(code, f"mount {target}")


def _check(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
