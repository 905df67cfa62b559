"""Limits of an account over its real record, and who reads how full the machine is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from microvmd.api.authorize import Authorizer
from microvmd.api.rates import Rates
from microvmd.api.requests import RequestContext
from microvmd.control.admission import Admission
from microvmd.control.capacity import Capacity
from microvmd.model.capacity import CapacityRules
from microvmd.model.quota import Quotas
from microvmd.model.rate import RateLimits
from microvmd.service.routes.limits import AccountLimits, QuotaFacts, limit_routes
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, PlayedMeter, plane
from tests.unit.service.routes.test_extensions import ACCOUNT as SIGNER
from tests.unit.service.routes.test_extensions import NoSubjects, _authenticate

pytestmark = pytest.mark.anyio

RATES = RateLimits({"RunMicrovm": 2.0, "GetMicrovm": 0}, others=5)
CAPACITY = Capacity(CapacityRules(reserve_mib=1000, microvm_mib=100), PlayedMeter())


@dataclass
class Service:
    plane: Plane
    limits: AccountLimits
    rates: Rates


@asynccontextmanager
async def service(directory: Path) -> AsyncIterator[Service]:
    admission = Admission(Quotas(memory_mib=4096, images=0, versions=7), CAPACITY)
    async with plane(directory, admission=admission) as p:
        rates = Rates(RATES)
        yield Service(p, AccountLimits(p.store, admission, RATES, rates), rates)


async def _never_gone() -> None:
    await asyncio.Event().wait()


async def test_what_is_used_and_left(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        await s.plane.built()
        await s.plane.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        await s.rates.admit(ACCOUNT, "RunMicrovm", _never_gone)
        await s.rates.admit(ACCOUNT, "ListTags", _never_gone)
        found: dict[str, Any] = await s.limits.of(ACCOUNT, machine=True)
    assert found["account"] == ACCOUNT
    assert found["quotas"] == {
        "memory_mib": {"limit": 4096, "used": 2048, "left": 2048},
        "images": {"limit": None, "used": 1, "left": None},
        "versions_of_an_image": {"limit": 7, "used": None, "left": None},
        "builds": {"limit": 5, "used": 0, "left": 5},
    }
    assert found["rates"].keys() == {"RunMicrovm", "ListTags"}, "0 is no limit"
    assert found["rates"]["RunMicrovm"]["per_second"] == 2
    assert found["rates"]["RunMicrovm"]["free"] < 2
    machine = found["machine"]
    assert (machine["microvms"], machine["builds"], machine["baseline_mib"]) == (1, 0, 2048)
    assert machine["left_mib"] == 10_000 - 1000 - 100
    assert machine["overcommit"] is None


def test_left_is_never_negative() -> None:
    """A limit may be set lower than what is there."""
    assert QuotaFacts.of(5, 9) == QuotaFacts(5, 9, 0)


async def _get(s: Service, signer: str, operator: str) -> httpx.Response:
    async def authenticate(request: Request) -> tuple[RequestContext, bytes]:
        return await _authenticate(request)

    routes = limit_routes(s.limits, authenticate, Authorizer(NoSubjects()), operator)
    transport = httpx.ASGITransport(app=Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        return await client.get("/microvmd/v1/limits", headers={"authorization": signer})


async def test_the_machine_is_shown_to_the_operator_only(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        assert (await _get(s, "signed", SIGNER)).json()["machine"]["memory_mib"] == 20_000
        assert (await _get(s, "signed", "999999999999")).json()["machine"] is None


async def test_the_right_to_ask(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        assert (await _get(s, "nobody", SIGNER)).status_code == 403
        refused = await _get(s, "restricted", SIGNER)
        assert refused.status_code == 403
        assert "lambda:GetAccountSettings" in refused.json()["message"]
