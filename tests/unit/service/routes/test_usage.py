"""The service's usage over HTTP: the span that is asked for, and whom it is told."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest

from microvmd.control.metering import Metering
from microvmd.messages.node import Started
from microvmd.model.caller import Caller
from microvmd.model.metering import Prices
from microvmd.service.routes.usage import usage_routes
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane
from tests.unit.service.routes.ownroutes import WITHOUT_RIGHTS, asking

pytestmark = pytest.mark.anyio

PATH = "/microvmd/v1/usage"


def _client(
    opened: Plane, caller: Caller | None = None
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    metering = Metering(opened.store, Prices())
    return asking(
        opened,
        lambda known, rights: usage_routes(metering, "EUR", known, rights, opened.clock),
        caller,
    )


async def test_what_was_used(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, _client(opened) as client:
        await opened.built()
        made = await opened.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        await opened.microvms.report(Started(made.microvm_id, 1, "10.0.0.1"))
        opened.clock.now += 60
        found = (await client.get(PATH, params={"by": "microvm", "since": "0"})).json()
        assert (found["by"], found["currency"], found["until"]) == (
            *("microvm", "EUR", opened.clock.now),
        )
        (line,) = found["lines"]
        assert (line["key"], line["running_s"]) == (made.microvm_id, 60)
        priced = ("vcpu_s", "memory_gb_s")
        expected = sum(line[unit] * found["prices"][unit] for unit in priced)
        assert line["cost"] == pytest.approx(expected)
        assert expected > 0


@pytest.mark.parametrize(
    "query", [{"since": "x"}, {"until": "-1"}, {"since": "nan"}, {"since": "1e11"}, {"by": "else"}]
)
async def test_what_cannot_be_asked(tmp_path: Path, query: dict[str, str]) -> None:
    async with plane(tmp_path) as opened, _client(opened) as client:
        answer = await client.get(PATH, params=query)
        assert answer.status_code == 400
        assert next(iter(query)) in answer.json()["message"]


async def test_it_takes_a_right(tmp_path: Path) -> None:
    async with plane(tmp_path) as opened, _client(opened, WITHOUT_RIGHTS) as client:
        answer = await client.get(PATH)
        assert answer.status_code == 403
        assert "microvmd:GetUsage" in answer.text
