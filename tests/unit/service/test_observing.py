"""Everything the service tells of itself is mounted, and its work ends when it is told to."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from microvmd.api.authorize import Authorizer
from microvmd.api.requests import RequestContext
from microvmd.control.insist import insist
from microvmd.control.subjects import Subjects
from microvmd.edge.activity import Activity
from microvmd.messages.capacity import Measured
from microvmd.model.caller import Caller
from microvmd.service.observing import Observing
from microvmd.settings.settings import Settings
from tests.unit.control.plane import ACCOUNT, plane

pytestmark = pytest.mark.anyio


async def _traffic() -> Mapping[str, Activity]:
    return {}


class NoNode:
    """A meter of a node that is not there."""

    def measure(self) -> Measured:
        raise OSError("no node")

    def stored_mib(self, microvm_id: str) -> int:
        raise OSError("no node")


async def _operator(_: Request) -> tuple[RequestContext, bytes]:
    caller = Caller.root(ACCOUNT)
    return RequestContext(ACCOUNT, "us-east-1", "AKIA", "r", datetime.now(UTC), caller), b""


async def test_every_route_answers(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    async with plane(tmp_path) as opened, AsyncExitStack() as stack:
        await opened.built()
        observing = Observing(Settings(root=tmp_path), opened.store, _traffic, NoNode())
        rights = Authorizer(Subjects(opened.store))
        audit = await stack.enter_async_context(observing.audit())
        routes = observing.routes(_operator, rights, opened.microvms, audit)
        transport = httpx.ASGITransport(Starlette(routes=routes))
        token = (tmp_path / "keys" / "metrics.token").read_text()
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            for route in routes:
                answer = await client.get(route.path, headers=headers)
                assert answer.status_code == 200, route.path
        assert len(routes) == 4


async def test_its_work_ends(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        observing = Observing(Settings(root=tmp_path), opened.store, _traffic, NoNode())
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(insist(loop, name)) for name, loop in observing.loops().items()
            ]
            await opened.built()
            for task in running:
                task.cancel()
