"""The record of calls over HTTP: filters, places, and whom it is told."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from microvmd.model.caller import Caller
from microvmd.service.audit_log import AuditLog, AuditQuery, audit_log
from microvmd.service.routes.audit import audit_routes
from tests.unit.control.plane import ACCOUNT, plane
from tests.unit.service.routes.ownroutes import WITHOUT_RIGHTS, asking
from tests.unit.service.test_audit_log import LIMITS, OTHER, call, written

pytestmark = pytest.mark.anyio

PATH = "/microvmd/v1/audit"


@asynccontextmanager
async def _client(
    tmp_path: Path, caller: Caller | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, AuditLog]]:
    async with plane(tmp_path) as opened, audit_log(tmp_path / "audit", LIMITS) as log:
        log(call("RunMicrovm", ACCOUNT))
        log(call("GetMicrovm", OTHER, read_only=True))
        await written(log, 2)
        async with asking(
            opened, lambda known, rights: audit_routes(log, known, rights, ACCOUNT), caller
        ) as client:
            yield client, log


def _names(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line)["eventName"] for line in answer.text.splitlines()]


async def test_the_operator_sees_all_and_may_choose(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, _):
        assert _names(await client.get(PATH)) == ["RunMicrovm", "GetMicrovm"]
        assert _names(await client.get(PATH, params={"account": OTHER})) == ["GetMicrovm"]
        assert _names(await client.get(PATH, params={"writes": "true"})) == ["RunMicrovm"]
        assert _names(await client.get(PATH, params={"last": "1"})) == ["GetMicrovm"]


async def test_others_see_their_own(tmp_path: Path) -> None:
    async with _client(tmp_path, Caller.root(OTHER)) as (client, _):
        for account in ("", ACCOUNT):
            answer = await client.get(PATH, params={"account": account})
            assert _names(answer) == ["GetMicrovm"]


async def test_a_browser_goes_on_where_it_was(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, log):
        place = str(await anext(behind async for behind, _ in log.read(AuditQuery())))
        headers = {"accept": "text/event-stream", "last-event-id": place}
        answer = await client.get(PATH, headers=headers)
        (block,) = answer.text.strip().split("\n\n")
        ident, kind, data = block.splitlines()
        ((newest, _),) = await log.last(AuditQuery(), 1)
        assert ident == f"id: {newest}"
        assert kind == "event: call"
        assert json.loads(data.removeprefix("data: "))["eventName"] == "GetMicrovm"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("follow", "yes"),
        ("failed", "1"),
        ("writes", "x"),
        ("after", "../x:1"),
        ("since", "now"),
        ("since", "1790000000000"),
        ("last", "0"),
    ],
)
async def test_what_cannot_be_asked(tmp_path: Path, name: str, value: str) -> None:
    async with _client(tmp_path) as (client, _):
        answer = await client.get(PATH, params={name: value})
        assert answer.status_code == 400
        assert name in answer.json()["message"]


async def test_it_takes_a_right(tmp_path: Path) -> None:
    async with _client(tmp_path, WITHOUT_RIGHTS) as (client, _):
        answer = await client.get(PATH)
        assert answer.status_code == 403
        assert "cloudtrail:LookupEvents" in answer.text
