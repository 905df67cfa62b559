"""Delivery to a real HTTP server: in order, each at least once, over refusals and restarts."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from microvmd.api.listener import listen
from microvmd.control.webhooks import Waits, deliver
from microvmd.model.event import Kind
from microvmd.model.webhook import Webhook
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane

pytestmark = pytest.mark.anyio

KEY = b"k" * 32
QUICK = Waits(0.01, 0.02)
LIMIT = 20.0


@dataclass
class Receiver:
    """Takes what it is sent; `answers` are given first, one for each request."""

    url: str
    answers: list[int] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: Request) -> Response:
        self.asked += 1
        status = self.answers.pop(0) if self.answers else 204
        if status < 300:
            self.got.append(json.loads(await request.body()))
        self.changed.set()
        return Response(status_code=status)

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not ready():
                self.changed.clear()
                await self.changed.wait()

    @property
    def ids(self) -> set[str]:
        """An event may come twice: when we end between its delivery and the note of it."""
        return {event["id"] for event in self.got}

    @property
    def states(self) -> list[str]:
        return [event["detail"]["state"] for event in self.got]


@asynccontextmanager
async def _receiver() -> AsyncIterator[Receiver]:
    listener = listen("127.0.0.1", 0)
    receiver = Receiver(f"http://127.0.0.1:{listener.getsockname()[1]}/events")
    app = Starlette(routes=[Route("/events", receiver.take, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    with listener:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listener]))
            try:
                yield receiver
            finally:
                server.should_exit = True
                await serving


@asynccontextmanager
async def _delivering(opened: Plane, hooks: list[Webhook]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(deliver(opened.store, hooks, opened.clock, QUICK))
        yield
        task.cancel()


async def _run(opened: Plane) -> None:
    await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})


async def test_what_is_refused_is_sent_again_in_order(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, _receiver() as receiver:
        receiver.answers = [500, 302, 404]
        hooks = [Webhook(receiver.url, KEY)]
        async with _delivering(opened, hooks):
            await opened.store.run(lambda tx: tx.events.place_of(hooks[0].name))
            await opened.built()
            await receiver.until(lambda: len(receiver.got) == 5)
        assert receiver.states == ["CREATING", "PENDING", "IN_PROGRESS", "SUCCESSFUL", "CREATED"]
        assert receiver.asked == 8


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """A new receiver begins with what comes; one that is known misses nothing."""
    async with plane(tmp_path) as opened, _receiver() as receiver:
        await opened.built()
        hooks = [Webhook(receiver.url, KEY, kinds=frozenset({Kind.MICROVM}))]
        await opened.store.run(lambda tx: tx.events.place_of(hooks[0].name))
        for count in (1, 3):
            await _run(opened)
            async with _delivering(opened, hooks):
                await receiver.until(lambda wanted=count: len(receiver.ids) >= wanted)  # type: ignore[misc]
            await _run(opened)
        assert receiver.states == ["PENDING"] * len(receiver.got)
        assert len(receiver.ids) == 3


async def test_one_that_is_gone_gets_nothing_more(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, _receiver() as gone, _receiver() as other:
        gone.answers = [410]
        hooks = [Webhook(gone.url, KEY), Webhook(other.url, KEY)]
        for hook in hooks:
            await opened.store.run(lambda tx, name=hook.name: tx.events.place_of(name))  # type: ignore[misc]
        async with _delivering(opened, hooks):
            await opened.built()
            await other.until(lambda: len(other.got) == 5)
            await gone.until(lambda: gone.asked == 1)
        assert gone.got == []


async def test_one_that_is_not_there_holds_up_nobody(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, _receiver() as receiver:
        hooks = [Webhook("http://127.0.0.1:9/", KEY), Webhook(receiver.url, KEY)]
        await opened.store.run(lambda tx: tx.events.place_of(hooks[1].name))
        async with _delivering(opened, hooks):
            await opened.built()
            await receiver.until(lambda: len(receiver.got) == 5)


def test_waits_grow_to_a_bound() -> None:
    waits = Waits(1.0, 300.0)
    assert [waits.after(tries) for tries in (0, 1, 8, 9, 5000)] == [1, 2, 256, 300, 300]
