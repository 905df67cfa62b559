"""Bytes that try to reach another MicroVM, another port, or the application behind our back."""

from __future__ import annotations

import asyncio

import pytest

from tests.edgeguests import guest
from tests.edgelab import world

GET = "GET /probe HTTP/1.1\r\n"
SECOND = "GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
TAIL = "Connection: close\r\n\r\n"
# Name, request (the token and host of vm-a are filled in), statuses that may come back.
PROBES = [
    (
        "content-length and chunked",
        "POST /probe HTTP/1.1\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\nConnection: close\r\n"
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
        {200, 400},
    ),
    (
        "two content-lengths",
        "POST /probe HTTP/1.1\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\n"
        "Content-Length: 4\r\nContent-Length: 0\r\n" + TAIL + SECOND,
        {400},
    ),
    (
        "transfer-encoding with a space",
        "POST /probe HTTP/1.1\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\n"
        "Transfer-Encoding : chunked\r\n" + TAIL + "0\r\n\r\n" + SECOND,
        {400},
    ),
    (
        "unknown transfer-encoding",
        "POST /probe HTTP/1.1\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\n"
        "Transfer-Encoding: xchunked\r\n" + TAIL + "0\r\n\r\n" + SECOND,
        {400, 501},
    ),
    (
        "two hosts",
        GET + "Host: {host}\r\nHost: {other}\r\nx-aws-proxy-auth: {token}\r\n" + TAIL,
        {400},
    ),
    (
        "absolute URI of another MicroVM",
        "GET https://{other}/ HTTP/1.1\r\nHost: {host}\r\nx-aws-proxy-auth: {token}\r\n" + TAIL,
        {400, 403},
    ),
    (
        "two tokens",
        GET + "Host: {host}\r\nx-aws-proxy-auth: {token}\r\nx-aws-proxy-auth: {token}\r\n" + TAIL,
        {400},
    ),
    (
        "two tokens in one line",
        GET + "Host: {host}\r\nx-aws-proxy-auth: {token}, {token}\r\n" + TAIL,
        {400},
    ),
    (
        "no host",
        GET + "x-aws-proxy-auth: {token}\r\n" + TAIL,
        {400, 403},
    ),
    (
        "folded token",
        GET + "Host: {host}\r\nx-aws-proxy-auth:\r\n {token}\r\n" + TAIL,
        {200, 400, 403},
    ),
    (
        "token without its tag",
        GET + "Host: {host}\r\nx-aws-proxy-auth: {untagged}\r\n" + TAIL,
        {403},
    ),
    (
        "no algorithm",
        GET + "Host: {host}\r\nx-aws-proxy-auth: eyJhbGciOiJub25lIn0..{rest}\r\n" + TAIL,
        {403},
    ),
]


@pytest.mark.parametrize(
    ("request_text", "statuses"), [p[1:] for p in PROBES], ids=[p[0] for p in PROBES]
)
def test_probe(request_text: str, statuses: set[int]) -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.13") as app, guest("127.0.0.14") as other:
            await w.edge.routes.add("vm-a", "127.0.0.13")
            await w.edge.routes.add("vm-b", "127.0.0.14")
            token = w.token("vm-a")
            untagged, _, _ = token.rpartition(".")
            text = request_text.format(
                host=w.edge.endpoint("vm-a"),
                other=w.edge.endpoint("vm-b"),
                token=token,
                untagged=f"{untagged}.",
                rest=token.partition("..")[2],
            )
            answer = await w.raw("vm-a", text.encode())
            assert int(answer.split(b" ")[1]) in statuses, answer
            assert b"server: haproxy" not in answer.lower()
            seen = b"".join(app.heads)
            assert b"GET /smuggled" not in seen
            assert seen.count(b"/probe") == (1 if answer.startswith(b"HTTP/1.1 200") else 0)
            assert other.heads == []

    asyncio.run(scenario())


def test_h2c_upgrade_does_not_reach_the_application() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.13") as app:
            await w.edge.routes.add("vm-a", "127.0.0.13")
            text = (
                f"GET / HTTP/1.1\r\nHost: {w.edge.endpoint('vm-a')}\r\n"
                f"x-aws-proxy-auth: {w.token('vm-a')}\r\n"
                "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
                "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
            )
            answer = await w.raw("vm-a", text.encode())
            assert answer.startswith(b"HTTP/1.1 200")
            seen = b"".join(app.heads).lower()
            assert b"upgrade:" not in seen
            assert b"http2-settings:" not in seen

    asyncio.run(scenario())


def test_garbage_and_huge_headers_are_refused() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = w.edge.endpoint("vm-a")
            for text in (
                "\x00\x01\x02\r\n\r\n",
                f"GET / HTTP/1.1\r\nHost: {host}\r\nX: {'a' * 70000}\r\n\r\n",
            ):
                answer = await w.raw("vm-a", text.encode())
                assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer

    asyncio.run(scenario())
