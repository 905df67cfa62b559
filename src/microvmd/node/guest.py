"""The node's client of the guest agent: typed requests, logs and exec streams.

    async with connect(machine.agent, timeout=10) as guest:
        await guest.start(["/bin/app"], env=["A=1"])

The wire is documented in messages/guest.py. Everything from the guest is hostile: a bad frame ends
the connection, and what it sends unasked is bounded.
"""

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from microvmd.model.hooks import HookAnswer
from microvmd.node.guest_connection import (
    REQUEST_LIMIT,
    GuestConnection,
    Hello,
    Opening,
    exit_of,
    integer,
    text,
)
from microvmd.node.guest_streams import (
    STDERR,
    STDOUT,
    ExecSession,
    Exit,
    GuestBroken,
    GuestError,
    GuestFailed,
    GuestGone,
    GuestTimeout,
)
from microvmd.vmm.agent_door import AgentAbsent, AgentDoor, PortDoor

__all__ = [
    "STDERR",
    "STDOUT",
    "Completed",
    "ExecSession",
    "Exit",
    "GuestBroken",
    "GuestClient",
    "GuestError",
    "GuestFailed",
    "GuestGone",
    "GuestTimeout",
    "Hello",
    "Identity",
    "connect",
    "connect_restored",
]

GRACE = 5.0
"""Seconds that an answer may take beyond the time the guest itself was given."""
SYNC_LIMIT = 120.0
"""Seconds for writing everything in the guest to its disk."""
DRAIN_LIMIT = 1.0
"""Seconds for handing over what the application has written."""
KNOCK_AGAIN = 0.01
"""Seconds between two attempts to reach a guest that boots, or that has lost the first stream with
all others that its snapshot knew of."""
MAX_OUTPUT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """What a clone is after `restored`, read back in the guest."""

    unix_nanos: int
    hostname: str
    machine_id: str
    boot_id: str
    sample: str
    """Random bytes that the guest drew after it was given new randomness, in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Completed:
    exit: Exit
    stdout: bytes
    stderr: bytes


class ProcessOptions(TypedDict, total=False):
    """`env` holds "K=V"; `user` is "uid[:gid]" or names, resolved in the image."""

    env: Sequence[str]
    cwd: str
    user: str
    all_capabilities: bool


@contextlib.asynccontextmanager
async def connect(agent: AgentDoor | Path, timeout: float) -> AsyncIterator["GuestClient"]:  # noqa: ASYNC109
    """Connect to an agent, which may still be booting; `timeout` in seconds.

    A path is that of a socket which is the agent's port.

    Raises:
        GuestTimeout: it did not answer in time.
        GuestGone: nothing listens there, or the VMM ended.
    """
    async with _connected(agent, timeout, None) as (client, _):
        yield client


@contextlib.asynccontextmanager
async def connect_restored(
    agent: AgentDoor | Path,
    timeout: float,  # noqa: ASYNC109
    *,
    hostname: str,
    machine_id: str,
    boot_id: str | None = None,
    end_connections: bool = False,
) -> AsyncIterator[tuple["GuestClient", Identity]]:
    """`connect` to a clone and make it itself (`GuestClient.restored`), in one round trip.

    `end_connections` ends its TCP connections with the outside: those that the restore has cut.

    Raises what `connect` raises, and GuestError.
    """
    members = _restored(hostname, machine_id, boot_id)
    opening = ("restored", {**members, "endConnections": end_connections})
    async with _connected(agent, timeout, opening) as (client, result):
        yield client, _identity(result)


@contextlib.asynccontextmanager
async def _connected(
    agent: AgentDoor | Path, limit: float, opening: Opening | None
) -> AsyncIterator[tuple["GuestClient", dict[str, Any]]]:
    door = PortDoor(agent) if isinstance(agent, Path) else agent
    try:
        async with asyncio.timeout(limit):
            transport, connection, result = await _greeted(door, opening)
    except TimeoutError:
        raise GuestTimeout(f"no answer from the guest agent in {limit:g} s") from None
    except OSError as error:
        raise GuestGone(f"cannot connect to the guest agent: {error}") from error
    try:
        yield GuestClient(connection), result
    finally:
        transport.abort()


async def _greeted(
    door: AgentDoor, opening: Opening | None
) -> tuple[asyncio.Transport, GuestConnection, dict[str, Any]]:
    """Again and again where a stream that ends means that the guest is not there yet.

    `opening` may be sent twice then: what is asked in it can be done twice.
    """
    while True:
        try:
            return await _greet_once(door, opening)
        except (AgentAbsent, GuestGone) as error:
            if not door.knocks or isinstance(error, GuestBroken):
                raise
        await asyncio.sleep(KNOCK_AGAIN)


async def _greet_once(
    door: AgentDoor, opening: Opening | None
) -> tuple[asyncio.Transport, GuestConnection, dict[str, Any]]:
    loop = asyncio.get_running_loop()
    stream = await door.open()
    transport, connection = await loop.create_unix_connection(GuestConnection, sock=stream)
    try:
        return transport, connection, await connection.greet(opening)
    except BaseException:
        transport.abort()
        raise


class GuestClient:
    """One conversation with an agent. Made by `connect`."""

    def __init__(self, connection: GuestConnection) -> None:
        self._connection = connection
        self.hello = connection.hello
        self.logs = connection.logs
        """Iterate to get (STDOUT or STDERR, bytes); ends with the connection."""

    def hang_up(self) -> None:
        """End the conversation, before the context does."""
        self._connection.hang_up()

    async def request(
        self, op: str, *, limit: float = REQUEST_LIMIT, **members: object
    ) -> dict[str, Any]:
        """Ask the agent; `limit` in seconds.

        Raises:
            GuestError: the agent refused.
            GuestTimeout: no answer in time.
            GuestGone: the connection ended.
        """
        return await self._connection.request(op, members, limit=limit)

    async def configure(self, hostname: str, machine_id: str, env: Sequence[str] = ()) -> None:
        """Clock, identity and environment ("K=V") of all processes, on a first boot."""
        await self.request(
            "configure",
            unixNanos=time.time_ns(),
            hostname=hostname,
            machineId=machine_id,
            env=list(env),
        )

    async def start(self, argv: Sequence[str], **options: Unpack[ProcessOptions]) -> int:
        """Start the application; returns its pid."""
        return integer(await self._connection.request("start", _members(argv, options)), "pid")

    async def restored(
        self, hostname: str, machine_id: str, boot_id: str | None = None
    ) -> Identity:
        """Clock, randomness and identity of a clone; the first request after every restore.

        Without a boot id the guest draws one, unless its machine id stays.
        """
        members = _restored(hostname, machine_id, boot_id)
        return _identity(await self._connection.request("restored", members))

    async def hook(
        self, name: str, port: int, *, timeout_s: float, body: str | None = None
    ) -> HookAnswer:
        """Call a lifecycle hook of the application from inside the guest."""
        result = await self.request(
            "hook",
            limit=timeout_s + GRACE,
            name=str(name),
            port=port,
            timeoutMs=max(1, round(timeout_s * 1000)),
            body=body,
        )
        if "error" in result:
            return HookAnswer(None, text(result, "error"))
        return HookAnswer(integer(result, "status"))

    async def listening(self) -> frozenset[int]:
        """TCP ports on which something in the guest listens."""
        ports = (await self.request("listening")).get("ports")
        if not isinstance(ports, list) or not all(type(port) is int for port in ports):
            raise GuestGone("the guest sent a malformed list of ports")
        return frozenset(ports)

    async def signal(self, number: int) -> None:
        """Send a signal to the application."""
        await self.request("signal", signal=number)

    async def sync(self) -> None:
        await self.request("sync", limit=SYNC_LIMIT)

    async def drain(self) -> None:
        """The log that the application has written so far has been sent, up to a full pipe."""
        await self.request("drain", limit=DRAIN_LIMIT)

    async def quiesce(self) -> None:
        """`sync` and `drain`: a snapshot holds nothing that a clone would tell once more."""
        await self.request("quiesce", limit=SYNC_LIMIT)

    async def shutdown(self, *, grace: float, power_off: bool = False) -> Exit | None:
        """TERM, `grace` seconds, KILL, then sync; returns how the application ended, if it ran.

        With `power_off` the guest restarts at once, which ends the VMM; the answer may be lost.
        """
        result = await self.request(
            "shutdown", limit=grace + SYNC_LIMIT, graceMs=round(grace * 1000), powerOff=power_off
        )
        return exit_of(result.get("exit"))

    async def info(self) -> dict[str, Any]:
        return await self.request("info")

    async def exited(self) -> Exit:
        """Wait for the end of the application.

        Raises:
            GuestGone: the connection ended first.
        """
        exited, lost = self._connection.exited, self._connection.lost
        if self.hello.exit is not None and not exited.done():
            return self.hello.exit
        waiting: set[asyncio.Future[Any]] = {exited, lost}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if exited.done():
            return exited.result()
        raise lost.result()

    async def exec(
        self,
        argv: Sequence[str],
        *,
        terminal: tuple[int, int] | None = None,
        **options: Unpack[ProcessOptions],
    ) -> ExecSession:
        """Start a process beside the application; `terminal` = (rows, cols)."""
        rows, cols = terminal or (0, 0)
        size = {"tty": terminal is not None, "rows": rows, "cols": cols}
        return await self._connection.open_session("exec", {**_members(argv, options), **size})

    async def shell(self) -> ExecSession:
        """A shell on a terminal without a size yet, amid what the application sees."""
        return await self._connection.open_session("shell", {"rows": 0, "cols": 0})

    async def run(
        self, argv: Sequence[str], *, input: bytes = b"", **options: Unpack[ProcessOptions]
    ) -> Completed:
        """Run a process to its end and collect what it says, at most MAX_OUTPUT bytes.

        Raises:
            GuestError: code "output": it said more.
        """
        async with await self.exec(argv, **options) as session:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_give(session, input))
                    collected = tasks.create_task(_collect(session))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            return collected.result()


def _members(argv: Sequence[str], options: ProcessOptions) -> dict[str, object]:
    return {
        "argv": list(argv),
        "env": list(options.get("env", ())),
        "cwd": options.get("cwd", "/"),
        "user": options.get("user", ""),
        "capabilities": "all" if options.get("all_capabilities") else "default",
    }


async def _collect(session: ExecSession) -> Completed:
    out = {STDOUT: bytearray(), STDERR: bytearray()}
    while (chunk := await session.read()) is not None:
        out[chunk[0]] += chunk[1]
        if sum(map(len, out.values())) > MAX_OUTPUT:
            raise GuestError("output", f"more than {MAX_OUTPUT} bytes of output")
    return Completed(await session.wait(), bytes(out[STDOUT]), bytes(out[STDERR]))


def _restored(hostname: str, machine_id: str, boot_id: str | None) -> dict[str, object]:
    given = {} if boot_id is None else {"bootId": boot_id}
    return {
        **given,
        "unixNanos": time.time_ns(),
        "seed": base64.b64encode(secrets.token_bytes(64)).decode(),
        "hostname": hostname,
        "machineId": machine_id,
    }


def _identity(result: dict[str, Any]) -> Identity:
    return Identity(
        integer(result, "unixNanos"),
        text(result, "hostname"),
        text(result, "machineId"),
        text(result, "bootId"),
        text(result, "sample"),
    )


async def _give(session: ExecSession, data: bytes) -> None:
    await session.write(data)
    session.close_input()
