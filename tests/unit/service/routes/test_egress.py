"""Bodies that are taken, the answer, and who may do what."""

import asyncio
import json
from ipaddress import IPv4Network

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from microvmd.api.authorize import Authorizer
from microvmd.api.requests import RequestContext
from microvmd.control.egress_change import EgressChanges
from microvmd.model.egress import INTERNET, NOTHING, Egress, Protocol, Reach
from microvmd.model.errors import ValidationError
from microvmd.model.microvm import MicroVm, Phase
from microvmd.service.routes.egress import asked, described, egress_routes
from tests.unit.service.routes.test_extensions import ACCOUNT, NoSubjects, _authenticate

MICROVM = MicroVm("microvm-1", ACCOUNT, "e", "arn:image", "1.0", Phase.RUNNING, 1, 0.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"egressNetworkConnectors": "arn"}',
        b'{"egressNetworkConnectors": [1]}',
        b'{"egressNetworkConnectors": []}',
        json.dumps({"egressNetworkConnectors": ["arn"] * 11}).encode(),
    ],
)
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(ValidationError):
        asked(body)


def test_a_body() -> None:
    assert asked(b'{"egressNetworkConnectors": ["a", "b"]}') == ["a", "b"]


@pytest.mark.parametrize(
    ("egress", "names"),
    [
        (INTERNET, "any"),
        (NOTHING, []),
        (
            Egress(
                reaches=(
                    Reach(
                        "nc-1:1",
                        IPv4Network("0.0.0.0/0"),
                        Protocol.TCP,
                        ((80, 80), (8000, 8100)),
                        ("a.test",),
                    ),
                )
            ),
            ["a.test"],
        ),
    ],
)
def test_what_is_answered(egress: Egress, names: object) -> None:
    found = described(MICROVM, egress)
    assert (found["internet"], found["names"]) == (egress.internet, names)
    assert found["reaches"] == [
        {
            "connector": "nc-1:1",
            "network": "0.0.0.0/0",
            "protocol": "tcp",
            "ports": ["80", "8000-8100"],
            "names": ["a.test"],
        }
        for _ in egress.reaches
    ]


class Changes(EgressChanges):
    """One MicroVM, without a record or a node."""

    def __init__(self) -> None:
        self.given: list[str] = []

    async def show(self, account: str, microvm_id: str) -> tuple[MicroVm, Egress]:
        return MICROVM, INTERNET

    async def change(
        self, account: str, microvm_id: str, arns: list[str]
    ) -> tuple[MicroVm, Egress]:
        self.given = arns
        return MICROVM, NOTHING


BODY = b'{"egressNetworkConnectors": ["arn:one"]}'


async def _authenticated(request: Request) -> tuple[RequestContext, bytes]:
    context, _ = await _authenticate(request)
    return context, await request.body()


def call(method: str, path: str, signer: str, operator: str = ACCOUNT) -> httpx.Response:
    async def reload() -> int:
        return 3

    routes = egress_routes(Changes(), _authenticated, Authorizer(NoSubjects()), operator, reload)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=Starlette(routes=routes))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            headers = {"authorization": signer}
            return await client.request(
                method, f"/microvmd/v1/{path}", headers=headers, content=BODY
            )

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "microvms/m/egress"), ("PUT", "microvms/m/egress"), ("POST", "network/reload")],
)
def test_who_may(method: str, path: str) -> None:
    assert call(method, path, "signed").status_code == 200
    for signer in ("restricted", "nobody"):
        answer = call(method, path, signer)
        assert answer.status_code == 403
        assert answer.headers["x-amzn-errortype"] == "AccessDeniedException"


def test_only_the_operator_reloads() -> None:
    assert call("POST", "network/reload", "signed").json() == {"microvms": 3}
    assert call("POST", "network/reload", "signed", operator="111122223333").status_code == 403
