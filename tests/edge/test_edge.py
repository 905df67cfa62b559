"""Every recorded answer of the real endpoint proxy, from a real HAProxy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import replace

import pytest

from microvmd.edge.resolve import Forward, Refuse
from tests.edgeguests import NOBODY, guest
from tests.edgelab import UNLIMITED, World, world

PRIVATE = "private, no-store"
BODY = 20_000
"""Bytes of a body that one buffer of HAProxy takes."""


async def _answer(
    w: World, headers: dict[str, str], *, endpoint: str = "vm-a", host: str | None = None
) -> tuple[int, str]:
    async with w.client() as client:
        response = await w.get(client, endpoint, "/", headers, host=host)
        assert response.headers["x-amzn-requestid"]
        if response.text and response.status_code == 403:
            assert response.headers["cache-control"] == PRIVATE
        return response.status_code, response.text


def test_recorded_refusals() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.11"):
            await w.edge.routes.add("vm-a", "127.0.0.11")
            await w.edge.routes.add("vm-b", "127.0.0.11")
            missing = (403, "Request missing authentication")
            failed = (403, "Token authentication failed")
            good = w.token("vm-a", "8080,9000-9100")
            head, _, nonce, sealed, tag = good.split(".")
            other = w.token("vm-b").split(".")
            assert await _answer(w, {}) == missing
            for bad in (
                "x",
                "a.b.c",
                "",
                "a..b.c.d",
                f"{head}..{nonce}.{sealed}.{tag[::-1]}",
                f"{head}..{nonce}.{sealed[::-1]}.{tag}",
                f"{head}..{other[2]}.{sealed}.{tag}",
                f"{head[:-1]}..{nonce}.{sealed}.{tag}",
                f"{head}.x.{nonce}.{sealed}.{tag}",
                f"{head}..{nonce}.{sealed}.{tag}.x",
                f"{head}..{nonce}.{sealed}",
            ):
                assert await _answer(w, {"X-aws-proxy-auth": bad}) == missing, bad
            assert await _answer(w, w.auth("vm-b")) == failed
            expired = w.token("vm-a", seconds=-5)
            assert await _answer(w, {"X-aws-proxy-auth": expired}) == failed
            for host in ("example.com", "vm-a.example.com", f"x.vm-a.{w.settings.suffix}"):
                assert await _answer(w, {"X-aws-proxy-auth": good}, host=host) == failed, host
            assert await _answer(w, {}, host="example.com") == missing
            port = {"X-aws-proxy-auth": good, "X-aws-proxy-port": "8081"}
            assert await _answer(w, port) == (403, "Access to port denied")
            for invalid in ("0", "65536", "0x1F90", "9e3", "08080", "http", "", "-1", "80 80"):
                port["X-aws-proxy-port"] = invalid
                assert await _answer(w, port) == (400, ""), invalid
            shell = w.token("vm-a", scope="shell")
            assert await _answer(w, {"X-aws-proxy-auth": shell}) == (502, "")

    asyncio.run(scenario())


def test_a_refusal_waits_for_a_small_body() -> None:
    """An answer before it closes the connection under the client that still sends, which may then
    never see it. A client that asks before it sends is told at once, and not to send."""

    async def scenario() -> None:
        async with world() as w:
            auth = w.auth("vm-a")
            for refused, status, said in (
                ({}, 403, b"Request missing authentication"),
                (w.auth("vm-b"), 403, b"Token authentication failed"),
                (w.auth("vm-a", "9000"), 403, b"Access to port denied"),
                ({**auth, "x-AWS-proxy-port": "80", "X-aws-proxy-port": "80"}, 400, b""),
                ({**auth, "X-aws-proxy-port": "http"}, 400, b""),
                ({"X-aws-proxy-auth": w.token("vm-a", scope="shell")}, 502, b""),
                (auth, 502, b""),  # whoever knows where it is says that it is nowhere
            ):
                begin = f"HTTP/1.1 {status} ".encode()
                parts = _upload(w, refused), b"x" * BODY
                early, answer = await _in_two(w, *parts)
                assert early == b""
                assert answer.startswith(begin)
                assert answer.endswith(said)
                asking = _upload(w, {**refused, "Expect": "100-continue"})
                early, answer = await _in_two(w, asking, b"")
                assert early == b""
                assert answer.startswith(begin)

    asyncio.run(scenario())


def test_a_limit_waits_for_a_small_body_too() -> None:
    async def scenario() -> None:
        limits = replace(UNLIMITED, requests_per_vcpu=1)
        async with world(limits) as w, guest("127.0.0.11"), w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.11")
            headers = w.auth("vm-a")
            while (await w.get(client, "vm-a", "/", headers)).status_code == 200:
                pass
            early, answer = await _in_two(w, _upload(w, headers), b"x" * BODY)
            assert early == b""
            assert answer.startswith(b"HTTP/1.1 429 ")

    asyncio.run(scenario())


def test_a_refusal_of_a_stream_comes_before_its_reset() -> None:
    """HTTP/2, where the answer to an unfinished request is followed by a reset (CANCEL)."""

    async def scenario() -> None:
        async with world() as w, w.client(http2=True) as client:
            headers = {"Host": w.edge.endpoint("vm-a")}
            for _ in range(20):
                answer = await client.post(
                    f"https://127.0.0.1:{w.edge.port}/",
                    content=b"x" * BODY,
                    headers=headers,
                    extensions={"sni_hostname": f"vm-a.{w.settings.suffix}"},
                )
                assert answer.http_version == "HTTP/2"
                assert (answer.status_code, answer.text) == (403, "Request missing authentication")

    asyncio.run(scenario())


def _upload(w: World, headers: dict[str, str]) -> bytes:
    lines = [
        "POST / HTTP/1.1",
        f"Host: {w.edge.endpoint('vm-a')}",
        f"Content-Length: {BODY}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def _in_two(w: World, head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """What comes before a body is sent, if there is one, and after it, until the close."""
    name = f"vm-a.{w.settings.suffix}"
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", w.edge.port, ssl=w.trust, server_hostname=name
    )
    early = b""
    with contextlib.closing(writer):
        writer.write(head)
        if body:
            with contextlib.suppress(TimeoutError):
                early = await asyncio.wait_for(reader.read(65536), 0.5)
        writer.write(body)
        async with asyncio.timeout(20):
            found = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", found, re.IGNORECASE)
            assert length is not None
            return early, found + await reader.readexactly(int(length[1]))


def test_502_with_an_empty_body() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.edge.routes.add("vm-a", NOBODY)
            assert await _answer(w, w.auth("vm-a")) == (502, "")  # nothing listens
            assert await _answer(w, w.auth("gone"), endpoint="gone") == (502, "")
            w.hold("odd").set_result(Refuse(429, "slow down"))
            assert await _answer(w, w.auth("odd"), endpoint="odd") == (429, "slow down")
            w.settings.files.resolver_socket.unlink()
            assert await _answer(w, w.auth("odd"), endpoint="odd") == (502, "")

    asyncio.run(scenario())


def test_a_502_looks_alike_whoever_gives_it() -> None:
    """HAProxy for a port where nobody listens, the control plane for a MicroVM that is gone."""

    async def scenario() -> None:
        async with world() as w:
            await w.edge.routes.add("vm-a", NOBODY)
            for endpoint in ("vm-a", "gone"):
                lines = (
                    "GET / HTTP/1.1",
                    f"Host: {w.edge.endpoint(endpoint)}",
                    f"X-aws-proxy-auth: {w.token(endpoint)}",
                    "Connection: close",
                )
                answer = await w.raw(endpoint, "\r\n".join((*lines, "", "")).encode())
                assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n"), answer
                assert answer.endswith(b"\r\n\r\n")

    asyncio.run(scenario())


def test_control_plane_down() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.11"):
            await w.edge.routes.add("vm-a", "127.0.0.11")
            w.settings.files.resolver_socket.unlink()
            status, _ = await _answer(w, w.auth("vm-a"))
            assert status == 200
            assert await _answer(w, w.auth("vm-b"), endpoint="vm-b") == (502, "")

    asyncio.run(scenario())


@pytest.mark.parametrize("http2", [False, True])
def test_what_the_application_sees(http2: bool) -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.11") as app:
            await w.edge.routes.add("vm-a", "127.0.0.11")
            ours = {
                "X-aws-proxy-port": "8080",
                "X-aws-proxy-force-h2": "false",
                "X-aws-proxy-anything": "1",
                "X_aws_proxy_auth": "1",
                "x-aws_proxy-port": "1",
                "X-Amzn-RequestId": "forged",
            }
            async with w.client(http2=http2) as client:
                kept = {"X-Kept": "yes", "Authorization": "Bearer mine"}
                path = "/a%2fb/../c?q=1"
                response = await w.get(client, "vm-a", path, {**w.auth("vm-a"), **ours, **kept})
            assert response.status_code == 200
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            head = app.heads[0].decode().lower()
            assert f"host: {w.edge.endpoint('vm-a')}\r\n" in head
            assert "x-kept: yes" in head
            assert "authorization: bearer mine" in head
            assert "forwarded" not in head
            assert "proxy" not in head
            assert f"x-amzn-requestid: {response.headers['x-amzn-requestid']}" in head
            assert "forged" not in head

    asyncio.run(scenario())


def test_own_503_of_the_application_passes() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.11"):
            await w.edge.routes.add("vm-a", "127.0.0.11")
            async with w.client() as client:
                response = await w.get(client, "vm-a", "/busy", w.auth("vm-a"))
                assert response.status_code == 503
                assert response.text

    asyncio.run(scenario())


def test_the_first_answer_is_timed() -> None:
    """Of the application: what the edge says itself is none, and a later one changes nothing."""

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.11"), w.client() as client:
            before = time.time()
            await w.edge.routes.add("vm-a", NOBODY)
            refused = await w.get(client, "vm-a", headers=w.auth("vm-a"))
            assert refused.status_code == 502
            assert (await w.active(lambda found: found.requests == 1)).first is None
            await w.edge.routes.add("vm-a", "127.0.0.11")
            await w.get(client, "vm-a", headers=w.auth("vm-a"))
            first = (await w.active(lambda found: found.requests == 2)).first
            assert first is not None
            arrived, answered = first.seen_at(time.time())
            assert before - 1 < arrived <= answered <= time.time()
            await w.get(client, "vm-a", headers=w.auth("vm-a"))
            assert (await w.active(lambda found: found.requests == 3)).first == first

    asyncio.run(scenario())


def test_the_first_answer_after_each_resume_is_timed() -> None:
    """A suspend takes the route away, and what was counted stays."""

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.11"), w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.11")
            await w.get(client, "vm-a", headers=w.auth("vm-a"))
            run = await w.active(lambda found: found.requests == 1)
            assert run.first is not None
            await w.edge.routes.remove("vm-a")
            suspended = await w.active(lambda found: found.first is None)
            assert (suspended.requests, suspended.bytes_total) == (1, run.bytes_total)
            await w.edge.routes.add("vm-a", "127.0.0.11")
            await w.get(client, "vm-a", headers=w.auth("vm-a"))
            first = (await w.active(lambda found: found.requests == 2)).first
            assert first is not None
            now = time.time()
            assert first.seen_at(now)[0] >= run.first.seen_at(now)[1]

    asyncio.run(scenario())


def test_key_rotation() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.11"):
            await w.edge.routes.add("vm-a", "127.0.0.11")
            old = w.auth("vm-a")
            assert w.issuer.rotate(after=0)
            await w.edge.publish_keys()
            assert (await _answer(w, old))[0] == 200
            assert len(w.settings.files.keys_map.read_text().splitlines()) == 1

    asyncio.run(scenario())


def test_hold_is_shared_and_ends_with_the_last_client() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.11"), w.client() as client:
            answer = w.hold("vm-a")
            async with asyncio.TaskGroup() as group:
                waiting = [
                    group.create_task(w.get(client, "vm-a", "/", w.auth("vm-a"))) for _ in range(5)
                ]
                assert await asyncio.wait_for(w.asked.get(), 10) == "vm-a"
                await w.edge.routes.add("vm-b", "127.0.0.11")
                assert (await w.get(client, "vm-b", "/", w.auth("vm-b"))).status_code == 200
                assert not any(task.done() for task in waiting)
                answer.set_result(Forward("127.0.0.11"))
            assert [task.result().status_code for task in waiting] == [200] * 5
            assert w.asked.empty()

            w.hold("vm-c")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(w.get(client, "vm-c", "/", w.auth("vm-c")))
                assert await asyncio.wait_for(w.asked.get(), 10) == "vm-c"
                task.cancel()
            assert await asyncio.wait_for(w.cancelled.get(), 10) == "vm-c"

    asyncio.run(scenario())
