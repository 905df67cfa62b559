"""The shells of one generation of a MicroVM: they begin when it runs, and all end with it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from microvmd.messages.shell import ShellEnd, ShellEnded, Terminal
from microvmd.node.guest import ExecSession, GuestClient, GuestError, GuestFailed, GuestGone

_REFUSALS = {"busy": ShellEnd.TOO_MANY, "unknown_op": ShellEnd.OLD_IMAGE}


class Shells:
    """Closed until ``begin``; ``end`` says why to everybody who has a shell open."""

    def __init__(self) -> None:
        self._guest: GuestClient | None = None
        self._open: set[ExecSession] = set()
        self._over = asyncio.Event()
        self.why = ShellEnd.NOT_RUNNING
        """What it means now that the guest does not answer."""

    def begin(self, guest: GuestClient) -> None:
        """From now on shells can be opened."""
        self._guest = guest
        self._over = asyncio.Event()
        self.why = ShellEnd.LOST

    def end(self, why: ShellEnd) -> None:
        """End all shells with their processes. Only the first reason counts."""
        if self._guest is None:
            return
        self._guest, self.why = None, why
        self._over.set()
        for session in self._open:
            session.close()
            session.fail(GuestGone(why.value))

    @contextmanager
    def ending(self) -> Iterator[None]:
        """What is open at the end of the context ends with it."""
        try:
            yield
        except asyncio.CancelledError:
            self.end(ShellEnd.DETACHED)
            raise
        finally:
            self.end(ShellEnd.TERMINATED)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Terminal]:
        """A new shell, which ends with the context. Raises ShellEnded."""
        if self._guest is None:
            raise ShellEnded(self.why)
        try:
            session = await self._guest.shell()
        except GuestError as error:
            raise ShellEnded(_REFUSALS.get(error.code, ShellEnd.NO_SHELL)) from error
        except GuestFailed as error:
            raise ShellEnded(self.why) from error
        self._open.add(session)
        try:
            async with session:
                if self._guest is None:
                    # It ended between the guest's answer and now.
                    raise ShellEnded(self.why)
                yield _Shell(session, self, self._over)
        finally:
            self._open.discard(session)


class _Shell:
    """Implements ``messages.shell.Terminal``."""

    def __init__(self, session: ExecSession, shells: Shells, over: asyncio.Event) -> None:
        self._session = session
        self._shells = shells
        self._over = over

    async def over(self) -> ShellEnd:
        await self._over.wait()
        return self._shells.why

    async def read(self) -> bytes | None:
        try:
            chunk = await self._session.read()
        except GuestFailed as error:
            raise ShellEnded(self._shells.why) from error
        return None if chunk is None else chunk[1]

    async def write(self, data: bytes) -> None:
        try:
            await self._session.write(data)
        except GuestFailed as error:
            raise ShellEnded(self._shells.why) from error

    async def resize(self, rows: int, cols: int) -> None:
        try:
            await self._session.resize(rows, cols)
        except GuestError:
            # The shell has exited meanwhile: reading says so.
            return
        except GuestFailed as error:
            raise ShellEnded(self._shells.why) from error
