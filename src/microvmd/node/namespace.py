"""Network namespaces without a process in them: made, entered and dropped by system calls.

A namespace lives as long as something refers to it: here the bind mount of its nsfs file on a path
under our run directory, which is also how a later run of ours finds it. setns(2) and unshare(2)
act on the calling thread alone, so everything that runs inside a namespace is a plain function
handed to `Visitor`, whose one thread comes back to our own namespace before it answers. A thread
that could not come back would act in a tenant's network from then on: the process ends instead.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2

_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000

_OWN = "/proc/thread-self/ns/net"


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Visitor:
    """The thread that visits namespaces; a context manager that ends it."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="namespace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown()

    async def make(self, path: Path, prepare: Callable[[], None]) -> None:
        """Make a namespace at `path` and call `prepare` inside it.

        The path is gone again when anything fails.
        """
        await self._run(lambda: _make(path, prepare))

    async def inside(self, path: Path, function: Callable[[], None]) -> None:
        """Call `function`, which must not wait for anything, in the namespace at `path`."""
        await self._run(lambda: _inside(path, function))

    async def _run(self, function: Callable[[], None]) -> None:
        """A cancelled caller sees the end too: it has to free what the function made."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, function)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        future.result()


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    """Come back to the namespace that the thread is in now, or end the process."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        if _libc.setns(own, _CLONE_NEWNET) != 0:
            os.abort()
        os.close(own)


def _make(path: Path, prepare: Callable[[], None]) -> None:
    path.touch(mode=0o600, exist_ok=False)
    try:
        with _returning():
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            target = os.fsencode(path)
            _check(_libc.mount(_OWN.encode(), target, b"none", _MS_BIND, None), f"mount {path}")
            prepare()
    except BaseException:
        destroy(path)
        raise


def _inside(path: Path, function: Callable[[], None]) -> None:
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _returning():
            _check(_libc.setns(namespace, _CLONE_NEWNET), f"setns {path}")
            function()
    finally:
        os.close(namespace)


def is_live(path: Path) -> bool:
    """Whether a namespace is mounted at `path`; a plain file there is what a crash left."""
    return os.path.ismount(path)


def destroy(path: Path) -> None:
    """Drop the mount. The kernel frees the namespace a moment after its last user.

    Unlinking also takes the copies of the mount that other mount namespaces (jails) may have got.
    """
    if not path.exists():
        return
    if is_live(path):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"umount {path}")
    path.unlink()


def make_tap(name: str) -> int:
    """Make a tap in the thread's namespace; it is gone when the namespace is.

    Were it to vanish with its last descriptor, closing that would wait for the kernel (23 ms). The
    virtio header is on: it is part of what a guest negotiated when its snapshot was made.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def give_tap(descriptor: int, uid: int) -> None:
    """Let this user, who has no capability, open the tap by its name."""
    fcntl.ioctl(descriptor, _TUNSETOWNER, uid)


def exists(interface: str) -> bool:
    """Whether our own namespace has the interface."""
    try:
        socket.if_nametoindex(interface)
    except OSError:
        return False
    return True
