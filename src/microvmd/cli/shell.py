"""``microvmd shell``: this terminal at a shell in a MicroVM, by what any client may use."""

import asyncio
import json
import signal
import ssl
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import typer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from microvmd.cli.client import ENDPOINT_SECONDS, TOKEN_HEADER, Service
from microvmd.cli.failure import START
from microvmd.cli.terminal import Escapes, LocalTerminal
from microvmd.messages.shell import first_ended
from microvmd.service.failure import Failure

EXITED = 1000
END_OF_INPUT = b"\x04"
END_INTERVAL = 1.0
"""Seconds between two ends of input: a program that runs just then may take one for its own."""
CLOSE_SECONDS = 2.0
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class End:
    """How a session ended; ``left`` when it was this side's wish."""

    code: int
    reason: str
    left: bool = False


def open_shell(service: Service, text: str) -> None:
    """Until the shell exits or is left; ``text`` is an id or its begin. Raises Failure."""
    name = service.find_microvm(text)
    endpoint = service.microvms.get_microvm(microvmIdentifier=name)["endpoint"]
    token, trust = service.shell_token(name), service.endpoint_trust()
    try:
        end = asyncio.run(_session(endpoint, trust, token))
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    except InvalidStatus as refused:
        raise _refusal(refused, name) from refused
    except OSError as error:
        raise Failure(f"no connection to {endpoint}: {error}", START) from error
    if not end.left and end.code != EXITED:
        raise Failure(
            f"the shell ended: {end.reason or f'close code {end.code}'}",
            f"see what became of it: microvmd ps; again: microvmd shell {name[:16]}",
        )


def _refusal(refused: InvalidStatus, name: str) -> Failure:
    status = refused.response.status_code
    if status == 429:
        return Failure(f"{name} has too many shells open", "end one of them")
    if status == 502:
        return Failure(
            f"{name} does not run, or the service gives no shells now",
            f"see its state: microvmd ps; resume it: microvmd resume {name[:16]}",
        )
    said = (refused.response.body or b"").decode(errors="replace")
    return Failure(f"the endpoint refused the shell: {status} {said}")


async def _session(endpoint: str, trust: ssl.SSLContext, token: str) -> End:
    # Without pings: their bytes would keep a MicroVM awake in which nobody does anything.
    async with connect(
        f"wss://{endpoint}/shell",
        ssl=trust,
        additional_headers={TOKEN_HEADER: token},
        open_timeout=ENDPOINT_SECONDS,
        close_timeout=CLOSE_SECONDS,
        compression=None,
        ping_interval=None,
        proxy=None,
    ) as socket:
        # Raw from here on: while the MicroVM resumes, Ctrl-C still ends this program.
        with LocalTerminal() as terminal, _ended_by_signals():
            return await _relay(socket, terminal)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A signal ends the session in order, so that the terminal is restored."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    got: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        got.append(number)
        task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if not got:
            raise
        raise typer.Exit(128 + got[0]) from None
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def _relay(socket: ClientConnection, terminal: LocalTerminal) -> End:
    """Both directions, and sizes, until one of them ends."""
    works = [_show(socket, terminal), _type(socket, terminal)]
    if terminal.interactive:
        works.append(_follow_size(socket, terminal))
    return await first_ended(*(_ended(work) for work in works))


async def _ended(work: Awaitable[End]) -> End:
    try:
        return await work
    except ConnectionClosed as closed:
        return End(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else End(1006, "")
    except BrokenPipeError:
        return End(EXITED, "", left=True)


async def _show(socket: ClientConnection, terminal: LocalTerminal) -> End:
    while True:
        message = await socket.recv()
        # Text is about the session (session_init), not of it.
        if isinstance(message, bytes):
            terminal.write(message)


async def _type(socket: ClientConnection, terminal: LocalTerminal) -> End:
    escapes = Escapes()
    while data := await terminal.read():
        sent = escapes.feed(data) if terminal.interactive else data
        if sent:
            await socket.send(sent)
        if escapes.left:
            return End(EXITED, "", left=True)
    if terminal.interactive:
        return End(EXITED, "", left=True)
    while True:
        await socket.send(END_OF_INPUT)
        await asyncio.sleep(END_INTERVAL)


async def _follow_size(socket: ClientConnection, terminal: LocalTerminal) -> End:
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            rows, cols = terminal.size()
            # A terminal without a size says 0: that is what the shell has already.
            if rows and cols:
                await socket.send(json.dumps({"type": "resize", "cols": cols, "rows": rows}))
            await changed.wait()
            changed.clear()
    finally:
        with suppress(RuntimeError):
            loop.remove_signal_handler(signal.SIGWINCH)
