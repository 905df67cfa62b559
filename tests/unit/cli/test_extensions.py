"""The service's own endpoints: what they answer, whom they refuse, that followers are let go."""

import asyncio
import json
from collections.abc import AsyncGenerator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from microvmd.cli.extensions import (
    Health,
    LogLine,
    MicrovmFacts,
    VmmFacts,
    extension_routes,
)
from microvmd.model.errors import AccessDenied, NotFound

LINES = [LogLine(1.0, "a", "one"), LogLine(2.0, "b", "zwei ü"), LogLine(3.0, "a", "three")]


class MemoryFacts:
    """A complete service of one MicroVM and one log group, in memory."""

    def __init__(self, checks: dict[str, str] | None = None) -> None:
        self.checks = checks or {"api": "ok", "edge": "ok"}
        self.followers = 0

    async def health(self) -> Health:
        return Health(self.checks)

    async def microvm(self, microvm_id: str) -> MicrovmFacts:
        if microvm_id != "microvm-1":
            raise NotFound(f"MicroVM not found: {microvm_id}")
        return MicrovmFacts(
            microvm_id="microvm-1",
            state="RUNNING",
            generation=2,
            log_group="/aws/lambda-microvms/hello",
            log_stream="2026/01/01[1.0]microvm-1",
            address="10.200.0.2",
            vmm=VmmFacts(pid=42, start_time=7),
            timings={"run": {"restore": 3.5, "guest.restored": 20.0}},
        )

    async def logs(
        self, group: str, stream: str | None, *, since: float, follow: bool
    ) -> AsyncGenerator[LogLine, None]:
        self.followers += 1
        try:
            for line in LINES:
                if line.time >= since and stream in (None, line.stream):
                    yield line
            if follow:
                await asyncio.Event().wait()
        finally:
            self.followers -= 1


async def _authenticate(request: Request) -> None:
    if request.headers.get("authorization") != "signed":
        raise AccessDenied("not signed")


def _get(path: str, facts: MemoryFacts | None = None, *, signed: bool = True) -> httpx.Response:
    app = Starlette(routes=list(extension_routes(facts or MemoryFacts(), _authenticate)))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.get(path, headers={"authorization": "signed"} if signed else {})

    return asyncio.run(ask())


def test_health_needs_no_signature() -> None:
    answer = _get("/microvmd/v1/health", signed=False)
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


def test_health_of_a_broken_part_is_503() -> None:
    answer = _get("/microvmd/v1/health", MemoryFacts({"edge": "haproxy is not running"}))
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"edge": "haproxy is not running"}


@pytest.mark.parametrize("path", ["microvms/microvm-1", "logs?group=/g&stream=a"])
def test_the_rest_needs_a_signature(path: str) -> None:
    answer = _get(f"/microvmd/v1/{path}", signed=False)
    assert answer.status_code == 403
    assert answer.headers["x-amzn-errortype"] == "AccessDeniedException"


def test_facts() -> None:
    body = _get("/microvmd/v1/microvms/microvm-1").json()
    assert body["vmm"]["pid"] == 42
    assert body["timings"]["run"]["guest.restored"] == 20.0
    assert _get("/microvmd/v1/microvms/microvm-2").status_code == 404


def test_logs_by_stream_and_time() -> None:
    answer = _get("/microvmd/v1/logs?group=/g&stream=a&since=2")
    assert [json.loads(line)["message"] for line in answer.text.splitlines()] == ["three"]
    assert "zwei ü" in _get("/microvmd/v1/logs?group=/g&stream=b").text
    assert len(_get("/microvmd/v1/logs?group=/g").text.splitlines()) == len(LINES)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "group=&stream=a",
        "group=/g&stream=a&since=x",
        "group=/g&stream=a&follow=maybe",
    ],
)
def test_bad_queries(query: str) -> None:
    assert _get(f"/microvmd/v1/logs?{query}").status_code == 400


def test_a_follower_that_leaves_is_let_go() -> None:
    facts = MemoryFacts()
    app = Starlette(routes=list(extension_routes(facts, _authenticate)))
    sent: list[bytes] = []

    async def follow() -> None:
        seen = asyncio.Event()

        async def receive() -> dict[str, object]:
            await seen.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            body = message.get("body")
            if isinstance(body, bytes) and body:
                sent.append(body)
            if len(sent) == 2:
                seen.set()

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/microvmd/v1/logs",
            "query_string": b"group=/g&stream=a&follow=true",
            "headers": [(b"authorization", b"signed")],
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }
        async with asyncio.timeout(10):
            await app(scope, receive, send)  # type: ignore[arg-type]

    asyncio.run(follow())
    assert len(sent) == 2
    assert facts.followers == 0
