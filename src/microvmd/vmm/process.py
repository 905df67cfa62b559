"""The only door to other processes: nothing else in microvmd imports subprocess.

Short commands go through `run`: it captures what they print and raises with argv and output when
they fail. Long-lived processes (VMMs, HAProxy, moto) go through `spawn`: they get a session of
their own, so that a signal to our terminal or our own death does not end them, and
`Process.detach` lets them go on when we leave on purpose.

A pid alone may name another process a moment later. Every process is therefore held by a pidfd,
which also tells when it exits and lets exactly that process be reaped; across our own restarts it
is named by `ProcessIdentity` (pid and start time). The jailer makes the VMM our direct child
(CLONE_PARENT), so no orphan ever has to be collected.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

from microvmd.vmm.shield import shielded

log = structlog.get_logger(__name__)

Listener = Callable[[bytes], None]

TERM_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
REAP_LIMIT = 10.0
"""Seconds a killed process may take to vanish; more means it hangs in the kernel."""
OUTPUT_LIMIT = 64 << 20
"""Bytes of output that `run` keeps; a command that prints more is killed."""
OUTPUT_SHOWN = 4000


class ProcessFailed(Exception):
    """A command ended with a code other than 0, printed too much, or ran out of time."""

    def __init__(self, argv: Sequence[str], code: int | None, output: str) -> None:
        self.argv = tuple(argv)
        self.code = code
        self.output = output
        how = "was stopped (time or output limit)" if code is None else f"ended with {code}"
        super().__init__(f"{shlex.join(argv)} {how}: {output[-OUTPUT_SHOWN:].strip()}")


class ProcessGone(Exception):
    """The process of a `ProcessIdentity` no longer runs."""


class ProcessStuck(Exception):
    """A process did not vanish after SIGKILL."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended; `code` is negative for a signal, as in subprocess."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Names one process until the next boot; `start_time` is in clock ticks since boot."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        """Raises ProcessGone when no process has this pid."""
        try:
            return cls(pid, _start_time(pid))
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ProcessGone(f"no process {pid}") from error

    def alive(self) -> bool:
        """Whether exactly this process still runs; a zombie does not."""
        try:
            stat = stat_fields(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat[0] not in "ZX" and int(stat[19]) == self.start_time


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the command name before it may hold anything.
    Raises FileNotFoundError or ProcessLookupError when no process has this pid."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _start_time(pid: int) -> int:
    return int(stat_fields(pid)[19])


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended; both None when it was not our child and the kernel does not tell."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {signal.Signals(self.signal).name}"
        return "ended" if self.code is None else f"exit code {self.code}"


@dataclass(slots=True, eq=False)
class Process:
    """A running process held by its pidfd. Make one with `spawn`, `child` or `adopt`."""

    identity: ProcessIdentity
    _pidfd: int
    _exit: asyncio.Future[Exit] = field(init=False)
    _detached: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._exit = loop.create_future()
        loop.add_reader(self._pidfd, self._reap)

    @classmethod
    def child(cls, pid: int) -> "Process":
        """Hold a child of ours, also one that has exited and was not reaped yet."""
        return cls(ProcessIdentity.of(pid), os.pidfd_open(pid))

    @classmethod
    def adopt(cls, identity: ProcessIdentity) -> "Process":
        """Hold a process that a former run of ours started. Raises ProcessGone."""
        try:
            pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError as error:
            raise ProcessGone(f"no process {identity.pid}") from error
        # The order matters: what the pidfd holds can no longer be replaced by another process.
        if not identity.alive():
            os.close(pidfd)
            raise ProcessGone(f"process {identity.pid} is another one now")
        return cls(identity, pidfd)

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def exited(self) -> bool:
        return self._exit.done()

    @property
    def detached(self) -> bool:
        return self._detached

    def detach(self) -> None:
        """Let the process go on when its context ends. It is still reaped while we live."""
        self._detached = True

    def send(self, number: signal.Signals) -> None:
        """Signal exactly this process; nothing happens when it has exited."""
        if self._exit.done():
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def wait_or(self, others: set[asyncio.Future[None]]) -> Exit | None:
        """Wait for the exit, or give None as soon as one of `others` is done."""
        waiting: set[asyncio.Future[Any]] = {self._exit, *others}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return self._exit.result() if self._exit.done() else None

    def kill_group(self) -> None:
        """SIGKILL to a `spawn`ed process and the children in its process group, unless it exited.

        The group number is safe to use only while we have not reaped its leader.
        """
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, grace: float = TERM_GRACE) -> Exit:
        """Ask with SIGTERM, wait `grace` seconds, then kill and reap."""
        self.send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                return await self.wait()
        log.warning("process.term_ignored", pid=self.pid, grace=grace)
        return await self.kill()

    async def kill(self) -> Exit:
        """SIGKILL and reap. Raises ProcessStuck when the kernel does not let go of it."""
        self.send(signal.SIGKILL)
        try:
            async with asyncio.timeout(REAP_LIMIT):
                return await self.wait()
        except TimeoutError as error:
            raise ProcessStuck(f"process {self.pid} survives SIGKILL") from error

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        try:
            info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:  # adopted: init has it
            info = None
        os.close(self._pidfd)
        if info is None:
            status = Exit()
        elif info.si_code == os.CLD_EXITED:
            status = Exit(code=info.si_status)
        else:
            status = Exit(signal=info.si_status)
        if not self._exit.done():
            self._exit.set_result(status)

    async def _close(self) -> None:
        """End of the owning context: kill unless detached, and keep nothing of a detached one."""
        if not self._detached:
            await self.stop()


def _popen(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> "subprocess.Popen[bytes]":
    log.debug("process.start", argv=shlex.join(argv))
    process = subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(fds),
        env=None if env is None else dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    # The pidfd reaps it. Popen must not: its finaliser might wait for a pid that is another's.
    process.returncode = 0
    return process


@contextlib.asynccontextmanager
async def spawn(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> AsyncIterator[Process]:
    """A long-lived process in its own session; `fds` keep their numbers in it.

    Leaving the context stops it (SIGTERM, SIGKILL, reap) unless it was detached.
    """
    popen = _popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, fds=fds, env=env, cwd=cwd)
    process = Process.child(popen.pid)
    async with owned(process):
        yield process


@contextlib.asynccontextmanager
async def owned(process: Process) -> AsyncIterator[Process]:
    """Stop a process that came from `child` or `adopt` when the context ends, unless detached."""
    try:
        yield process
    finally:
        await shielded(process._close(), limit=TERM_GRACE + REAP_LIMIT + 1)


async def run(
    argv: Sequence[str],
    *,
    timeout: float,  # noqa: ASYNC109 - the kill protocol is part of running out of time
    input: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    fds: Sequence[int] = (),
    check: bool = True,
    listener: Listener | None = None,
    daemonises: bool = False,
) -> Completed:
    """Run a short command to its end, `timeout` in seconds.

    `listener` gets every piece of output (both streams) as it comes, for live logs. Raises
    ProcessFailed when the code is not 0 (unless `check=False`), when time runs out or when it
    prints more than OUTPUT_LIMIT. No process of the group is left behind, but for a command that
    `daemonises`: its child may not have left the group yet when it ends well.
    """
    with contextlib.ExitStack() as stack:
        stdin: int | IO[bytes] = subprocess.DEVNULL
        if input:
            stdin = stack.enter_context(_memory_file(input))
        out = stack.enter_context(_Collector(listener))
        err = stack.enter_context(_Collector(listener))
        popen = _popen(
            argv, stdin=stdin, stdout=out.writer, stderr=err.writer, fds=fds, env=env, cwd=cwd
        )
        process = Process.child(popen.pid)
        out.close_writer()
        err.close_writer()
        ended: Exit | None = None
        async with owned(process):
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        ended = await process.wait_or({out.overflowed, err.overflowed})
            finally:
                if not (daemonises and ended is not None):
                    process.kill_group()
        out.drain()
        err.drain()
    stdout, stderr = bytes(out.data), bytes(err.data)
    shown = (stderr + stdout).decode(errors="replace")
    if ended is None:
        raise ProcessFailed(argv, None, shown)
    code = ended.code if ended.code is not None else -(ended.signal or 0)
    if check and code != 0:
        raise ProcessFailed(argv, code, shown)
    return Completed(tuple(argv), code, stdout, stderr)


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[IO[bytes]]:
    """Input as a memory file: nobody has to feed a pipe while the command runs."""
    with os.fdopen(os.memfd_create("input"), "wb+") as file:
        file.write(content)
        file.seek(0)
        yield file


class _Collector:
    """Reads one output stream of a command into memory, up to OUTPUT_LIMIT."""

    def __init__(self, listener: Listener | None) -> None:
        self.data = bytearray()
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self.overflowed: asyncio.Future[None] = self._loop.create_future()

    def __enter__(self) -> "_Collector":
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._loop.add_reader(self._reader, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self.close_writer()
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        self.overflowed.cancel()

    @property
    def overflow(self) -> bool:
        return len(self.data) > OUTPUT_LIMIT

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def drain(self) -> None:
        """Take what is in the pipe. Not until its end: a grandchild may hold it open for ever."""
        while self._read():
            pass

    def _read(self) -> bool:
        try:
            piece = os.read(self._reader, 65536)
        except BlockingIOError:
            return False
        if not piece:
            self._loop.remove_reader(self._reader)
            return False
        self.data += piece
        if self._listener:
            self._listener(piece)
        if self.overflow and not self.overflowed.done():
            self.overflowed.set_result(None)
        return not self.overflow
