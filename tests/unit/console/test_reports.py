"""Reports of browsers are few and short, and their sender learns nothing."""

import json
from typing import Any

import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.routing import Route

from microvmd.console.reports import REPORT_LIMIT, TEXT_LIMIT, Reports
from tests.unit.control.plane import Clock

pytestmark = pytest.mark.anyio


async def _send(reports: Reports, *bodies: bytes) -> list[Any]:
    transport = httpx.ASGITransport(Starlette(routes=[Route("/r", reports.take, methods=["POST"])]))
    with structlog.testing.capture_logs() as logged:
        async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
            for body in bodies:
                assert (await client.post("/r", content=body)).status_code == 204
    return [entry for entry in logged if entry["event"] == "console.policy_broken"]


async def test_a_report_is_logged_in_few_words() -> None:
    report = {"effective-directive": "script-src", "blocked-uri": "x" * 5000, "other": "secret"}
    (entry,) = await _send(Reports(Clock()), json.dumps({"csp-report": report}).encode())
    assert entry["effective_directive"] == "script-src"
    assert len(entry["blocked_uri"]) == TEXT_LIMIT
    assert "secret" not in repr(entry)


async def test_what_is_no_report() -> None:
    for body in (b"", b"[]", b"{}", b"\xff", b'{"csp-report": 1}', b"[" * 9000):
        assert len(await _send(Reports(Clock()), body)) == 1
    assert await _send(Reports(Clock()), b"x" * (REPORT_LIMIT + 1)) == []


async def test_a_flood_is_dropped() -> None:
    assert len(await _send(Reports(Clock()), *[b"{}"] * 50)) == 1
