"""Live rows and samples over HTTP, and whom they are told."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest

from microvmd.edge.activity import Activity
from microvmd.messages.node import Started
from microvmd.messages.node_requests import Vmm
from microvmd.model.caller import Caller
from microvmd.service.live import COLUMNS, Live
from microvmd.service.routes.live import live_routes
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane
from tests.unit.service.routes.ownroutes import WITHOUT_RIGHTS, asking

pytestmark = pytest.mark.anyio

PATH = "/microvmd/v1/live"


async def _traffic() -> Mapping[str, Activity]:
    return {}


async def _no_vmm(_: str) -> Vmm | None:
    return None


def _client(
    opened: Plane, live: Live, caller: Caller | None = None
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    return asking(opened, lambda who, may: live_routes(live, opened.microvms, who, may), caller)


async def test_rows_and_samples(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        live = Live(opened.microvms.live, _traffic, _no_vmm, opened.clock)
        async with _client(opened, live) as client:
            await opened.built()
            made = await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
            first = (await client.get(PATH)).json()
            assert [row["state"] for row in first["rows"]] == ["PENDING"]
            assert first["microvms"] == [made.microvm_id]
            await opened.microvms.report(Started(made.microvm_id, 1, "10.0.0.1"))
            second = (await client.get(PATH, params={"after": first["version"]})).json()
            assert [row["state"] for row in second["rows"]] == ["RUNNING"]
            assert second["microvms"] is None
            await live.look()
            path = f"/microvmd/v1/microvms/{made.microvm_id}/samples"
            found = (await client.get(path)).json()
            assert found["columns"] == list(COLUMNS)
            assert found["samples"] == [[opened.clock.now, None, None, None, None]]
            late = await client.get(path, params={"after": str(opened.clock.now)})
            assert late.json()["samples"] == []
            assert (await client.get(path, params={"after": "x"})).status_code == 400
            assert (await client.get(path.replace("microvm-", "microvm-0"))).status_code == 404


async def test_it_takes_a_right(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened:
        live = Live(opened.microvms.live, _traffic, _no_vmm, opened.clock)
        async with _client(opened, live, WITHOUT_RIGHTS) as client:
            await opened.built()
            made = await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
            assert (await client.get(PATH)).status_code == 403
            path = f"/microvmd/v1/microvms/{made.microvm_id}/samples"
            assert (await client.get(path)).status_code == 403
