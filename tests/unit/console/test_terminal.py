"""The terminal's WebSocket, over the real bridge: who may open it, what passes, how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from microvmd.api.connection import configure
from microvmd.api.listener import listen
from microvmd.console.terminal import LOGGED_OUT, NO_SHELL, REFUSED
from microvmd.console.visit import COOKIE
from microvmd.edge import shell
from microvmd.edge.resolve import Answer, Forward
from microvmd.edge.shell import ShellDoor
from microvmd.messages.node import Started
from microvmd.messages.shell import ShellEnd, Terminal
from microvmd.model.connector import Ingress, managed_arn
from tests.consolelab import Browser, ConsoleLab, console_lab
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, REGION

pytestmark = pytest.mark.anyio


class Echo:
    """Implements `messages.shell.Terminal`: writes what is typed, and each size."""

    def __init__(self) -> None:
        self.out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.why: asyncio.Future[ShellEnd] = asyncio.get_running_loop().create_future()

    async def read(self) -> bytes | None:
        return await self.out.get()

    async def write(self, data: bytes) -> None:
        await self.out.put(None if data == b"exit" else data)

    async def resize(self, rows: int, cols: int) -> None:
        await self.out.put(f"{rows}x{cols}".encode())

    async def over(self) -> ShellEnd:
        return await self.why


class World:
    """A console that listens, a MicroVM with a shell, and somebody who is logged in."""

    def __init__(self, lab: ConsoleLab, browser: Browser, port: int, name: str) -> None:
        self.lab, self.browser, self.port, self.name = lab, browser, port, name
        self.terminals: list[Echo] = []

    def open(self, *, cookie: bool = True, origin: str | None = None, name: str = "") -> connect:
        host = f"127.0.0.1:{self.port}"
        headers = {"origin": origin or f"http://{host}"}
        if cookie:
            headers["cookie"] = f"{COOKIE}={self.browser.client.cookies[COOKIE]}"
        path = f"/console/microvm/{name or self.name}/terminal"
        return connect(f"ws://{host}{path}", additional_headers=headers, proxy=None)


@asynccontextmanager
async def _listening(app: Starlette) -> AsyncIterator[int]:
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(configure(app))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]))
            yield listener.getsockname()[1]
            server.should_exit = True


async def _run(lab: ConsoleLab, *ingress: Ingress) -> str:
    given = [managed_arn(one, REGION) for one in ingress]
    asked = {"imageIdentifier": IMAGE_ARN, "ingressNetworkConnectors": given}
    made = await lab.plane.microvms.run(ACCOUNT, asked)
    await lab.plane.microvms.report(Started(made.microvm_id, 1, "10.0.0.1"))
    return made.microvm_id


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    socket = tmp_path / "shell.sock"
    terminals: list[Echo] = []

    async def locate(_: str) -> Answer:
        return Forward("10.0.0.1")

    @asynccontextmanager
    async def opened(_: str) -> AsyncIterator[Terminal]:
        terminals.append(Echo())
        yield terminals[-1]

    async with (
        console_lab(tmp_path, shells=socket) as lab,
        shell.serve(socket, None, ShellDoor(locate, opened), hold=5, per_microvm=2),
        _listening(lab.app) as port,
    ):
        await lab.plane.built()
        name = await _run(lab, Ingress.HTTP, Ingress.SHELL)
        world = World(lab, await lab.logged_in(), port, name)
        world.terminals = terminals
        yield world


async def _begun(socket: ClientConnection) -> None:
    assert json.loads(await socket.recv())["type"] == "session_init"


async def test_bytes_sizes_and_the_end(world: World) -> None:
    async with world.open() as socket:
        await _begun(socket)
        await socket.send(b"\x00hello\xff")
        assert await socket.recv() == b"\x00hello\xff"
        await socket.send('{"type":"resize","rows":40,"cols":120}')
        assert await socket.recv() == b"40x120"
        await socket.send(b"exit")
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (1000, "shell exited")


async def test_a_suspend_is_told(world: World) -> None:
    async with world.open() as socket:
        await _begun(socket)
        world.terminals[-1].why.set_result(ShellEnd.SUSPENDED)
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (1001, "MicroVM suspended")


async def test_the_bridge_counts_those_of_pages_too(world: World) -> None:
    async with world.open() as one, world.open() as two:
        await _begun(one)
        await _begun(two)
        async with world.open() as third:
            await third.wait_closed()
            assert third.close_code == NO_SHELL
            assert "too many shells" in (third.close_reason or "")


async def test_it_ends_with_its_session(world: World) -> None:
    async with world.open() as socket:
        await _begun(socket)
        await world.browser.post("/logout")
        await socket.wait_closed()
        assert socket.close_code == LOGGED_OUT


async def test_who_may_not_make_a_shell_token_gets_none(world: World) -> None:
    without = await _run(world.lab, Ingress.HTTP)
    async with world.open(name=without) as socket:
        await socket.wait_closed()
        assert socket.close_code == REFUSED
        assert "SHELL_INGRESS" in (socket.close_reason or "")
    world.browser = await world.lab.logged_in(await world.lab.user("ann"))
    async with world.open() as socket:
        await socket.wait_closed()
        assert socket.close_code == REFUSED
        assert "not authorized" in (socket.close_reason or "")
    assert world.terminals == []


async def test_only_pages_of_this_console_open_one(world: World) -> None:
    for refused in (
        world.open(cookie=False),
        world.open(origin="http://evil.test"),
        world.open(origin="null"),
    ):
        with pytest.raises(InvalidStatus) as error:
            await refused
        assert error.value.response.status_code == 403


async def test_without_a_bridge_it_says_so(world: World) -> None:
    world.lab.plane.clock.now += 1
    async with world.open() as socket:
        await _begun(socket)
        await socket.close()
    with pytest.raises(ConnectionClosed):
        await socket.recv()
