"""Heads that are too much for anybody, and heads that ask to be waited for, against a real HAProxy.

Each is shown to arrive, or to have its way, where the setting that stops it is another.
"""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.edgeguests import guest
from tests.edgelab import world
from tests.edgeweak import instead, weakened

pytestmark = pytest.mark.security

HEADS = {
    "many headers": ("/", {f"x-{number}": "y" for number in range(400)}),
    "a long value": ("/", {"x-long": "y" * 60_000}),
    "long names": ("/", {f"x-{number}".ljust(250, "y"): "z" * 250 for number in range(100)}),
    "a long cookie": ("/", {"cookie": "; ".join(f"a{number}=b" for number in range(9000))}),
    "a long path": ("/" + "a" * 60_000, {}),
}
ROOMY = (
    instead("tune.bufsize 32768", "tune.bufsize 524288"),
    instead("tune.http.maxhdr 128", "tune.http.maxhdr 32767"),
)
"""Heads of half a megabyte, with as many headers as HAProxy can count."""


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("defended", [False, True])
def test_oversized_heads(
    defended: bool, name: str, http2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not defended:
        weakened(monkeypatch, *ROOMY)
    path, headers = HEADS[name]

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.34") as app:
            await w.edge.routes.add("vm-a", "127.0.0.34")
            async with w.client(http2=http2) as client:
                try:
                    answer = await w.get(client, "vm-a", path, {**w.auth("vm-a"), **headers})
                    status = answer.status_code
                except httpx.RemoteProtocolError:
                    assert http2, "refused in HTTP/2's own words"
                    status = 400
            assert status == (400 if defended else 200)
            assert (app.heads == []) is defended
            async with w.client(http2=http2) as client:
                assert (await w.get(client, "vm-a", "/", w.auth("vm-a"))).status_code == 200

    asyncio.run(scenario())


EXPECTING = (
    "POST /probe HTTP/1.1\r\nHost: {host}\r\nExpect: {expect}\r\n"
    "Content-Length: {length}\r\nConnection: close\r\n\r\n"
)
WAITING = (
    instead("if has_body !large_body !asks_first", "if has_body"),
    instead("wait-for-body time 5s", "wait-for-body time 100ms"),
)
"""Any body is waited for before it is refused, if not for long."""


@pytest.mark.parametrize("expect", ["100-continue", "100-continue, x", "200-ok", "x\r\nExpect: y"])
@pytest.mark.parametrize("defended", [False, True])
def test_a_body_that_nobody_may_send_is_not_asked_for(
    defended: bool, expect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has no token is answered at once, whatever it waits for and would send."""
    if not defended:
        weakened(monkeypatch, *WAITING)

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.34") as app:
            await w.edge.routes.add("vm-a", "127.0.0.34")
            host = w.edge.endpoint("vm-a")
            for length in (10, 1_000_000):
                text = EXPECTING.format(host=host, expect=expect, length=length)
                answer = await w.raw("vm-a", text.encode())
                first = b"HTTP/1.1 100 " if expect.startswith("100") else b"HTTP/1.1 408 "
                assert answer.startswith(b"HTTP/1.1 403 " if defended else first)
            assert app.heads == []

    asyncio.run(scenario())
