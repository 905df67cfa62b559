"""The service's own endpoints: what they answer, whom they refuse, that followers are let go."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from microvmd.api.authorize import Authorizer
from microvmd.api.requests import RequestContext
from microvmd.control.subjects import Subject
from microvmd.messages.node_requests import LogLine
from microvmd.model.caller import Caller, CallerKind
from microvmd.model.errors import AccessDenied, NotFound
from microvmd.model.policy import Policy
from microvmd.service.routes.extensions import Health, MicrovmFacts, VmmFacts, extension_routes

ACCOUNT = "123456789012"
READS_ONE_LOG = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Action": "logs:*",
            "Resource": f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/g:*",
        },
    }
)
LINES = [LogLine(1.0, "a", "one"), LogLine(2.0, "b", "zwei ü"), LogLine(3.0, "a", "three")]


class MemoryFacts:
    """A complete service of one MicroVM and one log group, in memory."""

    def __init__(self, checks: dict[str, str] | None = None) -> None:
        self.checks = checks or {"api": "ok", "edge": "ok"}
        self.followers = 0

    async def health(self) -> Health:
        return Health(self.checks)

    async def microvm(self, account: str, microvm_id: str) -> MicrovmFacts:
        if account != ACCOUNT or microvm_id != "microvm-1":
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
        self, account: str, group: str, stream: str | None, *, since: float, follow: bool
    ) -> AsyncGenerator[LogLine, None]:
        assert account == ACCOUNT
        self.followers += 1
        try:
            for line in LINES:
                if line.time >= since and stream in (None, line.stream):
                    yield line
            if follow:
                await asyncio.Event().wait()
        finally:
            self.followers -= 1


class NoSubjects:
    """Nothing exists: policies see identifiers as they came."""

    async def microvm(self, account: str, microvm_id: str) -> Subject:
        return Subject(None)

    async def image(self, account: str, identifier: str) -> Subject:
        return Subject(identifier)

    async def connector(self, account: str, region: str, identifier: str) -> Subject:
        return Subject(identifier)


def _context(caller: Caller) -> RequestContext:
    return RequestContext(
        ACCOUNT, "us-east-1", "AKIA", "r", datetime(2026, 7, 30, tzinfo=UTC), caller
    )


async def _authenticate(request: Request) -> tuple[RequestContext, bytes]:
    signer = request.headers.get("authorization")
    if signer == "signed":
        return _context(Caller.root(ACCOUNT)), b""
    if signer == "restricted":
        allowed = Policy.parse(READS_ONE_LOG)
        arn = f"arn:aws:iam::{ACCOUNT}:user/reader"
        return _context(Caller(arn, ACCOUNT, CallerKind.USER, "reader", (allowed,))), b""
    raise AccessDenied("not signed")


def _routes(facts: MemoryFacts | None = None) -> list[Route]:
    return extension_routes(facts or MemoryFacts(), _authenticate, Authorizer(NoSubjects()))


def _get(
    path: str, facts: MemoryFacts | None = None, *, signed: bool = True, signer: str = "signed"
) -> httpx.Response:
    app = Starlette(routes=_routes(facts))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.get(path, headers={"authorization": signer} if signed else {})

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


def test_rights_are_those_of_the_nearest_aws_call() -> None:
    for path, status in (
        ("logs?group=/g", 200),
        ("logs?group=/g&stream=a", 200),
        ("logs?group=/other", 403),
        ("microvms/microvm-1", 403),
    ):
        answer = _get(f"/microvmd/v1/{path}", signer="restricted")
        assert answer.status_code == status, path
    assert "lambda:GetMicrovm on resource: arn:aws:lambda:us-east-1" in answer.json()["message"]


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
        "group=/g&stream=a&since=1790000000000",
        "group=/g&stream=a&since=1e20",
        "group=/g&stream=a&since=inf",
        "group=/g&stream=a&since=nan",
        "group=/g&stream=a&follow=maybe",
    ],
)
def test_bad_queries(query: str) -> None:
    assert _get(f"/microvmd/v1/logs?{query}").status_code == 400


def test_a_follower_that_leaves_is_let_go() -> None:
    facts = MemoryFacts()
    app = Starlette(routes=_routes(facts))
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
