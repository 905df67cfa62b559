"""The service's events over HTTP: filters, streams that go on, and whom they are told."""

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from microvmd.control.events import Events
from microvmd.model.caller import Caller
from microvmd.service.routes.events import event_routes
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane
from tests.unit.service.routes.ownroutes import WITHOUT_RIGHTS, asking

pytestmark = pytest.mark.anyio


def _client(
    opened: Plane, caller: Caller | None = None
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    events = Events(opened.store)
    return asking(opened, lambda known, rights: event_routes(events, known, rights), caller)


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_filters(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, _client(opened) as client:
        await opened.built()
        made = await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        every = _events(await client.get("/microvmd/v1/events"))
        assert [event["detail"]["sequence"] for event in every] == list(range(1, len(every) + 1))
        own = await client.get("/microvmd/v1/events", params={"resource": made.microvm_id})
        assert [event["detail"]["state"] for event in _events(own)] == ["PENDING"]
        kind = {"kind": "MicroVM Image State Change", "after": "1"}
        images = _events(await client.get("/microvmd/v1/events", params=kind))
        assert [event["detail"]["state"] for event in images] == ["CREATED"]
        newest = await client.get("/microvmd/v1/events", params={"last": "2"})
        assert [event["id"] for event in _events(newest)] == [event["id"] for event in every[-2:]]
        later = await client.get("/microvmd/v1/events", params={"since": "9e9"})
        assert _events(later) == []


async def test_a_browser_goes_on_where_it_was(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, _client(opened) as client:
        await opened.built()
        headers = {"accept": "text/event-stream", "last-event-id": "3"}
        answer = await client.get("/microvmd/v1/events", headers=headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = answer.text.strip().split("\n\n")
        assert [block.splitlines()[0] for block in blocks] == ["id: 4", "id: 5"]
        assert json.loads(blocks[0].splitlines()[2].removeprefix("data: "))["version"] == "0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("follow", "yes"),
        ("after", "-1"),
        ("after", "x"),
        ("kind", "Else"),
        ("since", "now"),
        ("last", "1001"),
    ],
)
async def test_what_cannot_be_asked(tmp_path: Path, name: str, value: str) -> None:
    async with plane(tmp_path) as opened, _client(opened) as client:
        answer = await client.get("/microvmd/v1/events", params={name: value})
        assert answer.status_code == 400
        assert name in answer.json()["message"]


async def test_it_takes_a_right(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, _client(opened, WITHOUT_RIGHTS) as client:
        answer = await client.get("/microvmd/v1/events")
        assert answer.status_code == 403
        assert "microvmd:ListEvents" in answer.text
