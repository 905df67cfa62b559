"""The local AWS server outlives who started it, is adopted again, and comes back when it dies."""

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from microvmd.service.local_aws import RECORD, LocalAws, local_aws
from microvmd.vmm.process import Process, ProcessGone


async def _buckets(server: LocalAws) -> bytes:
    # A server that is being started again refuses connections for a moment.
    transport = httpx.AsyncHTTPTransport(uds=str(server.socket), retries=5)
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        response = await client.get("http://localhost/", headers={"host": "localhost"})
    assert response.status_code == 200
    return response.content


@asynccontextmanager
async def _ended_with_the_test(server: LocalAws) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await Process.adopt(server.identity).stop()


@pytest.mark.anyio
async def test_outlives_its_starter_and_is_adopted(tmp_path: Path) -> None:
    log = tmp_path / "local-aws.log"
    async with local_aws(tmp_path, log) as first:
        assert b"ListAllMyBucketsResult" in await _buckets(first)
    async with _ended_with_the_test(first):
        assert first.identity.alive()
        async with local_aws(tmp_path, log) as second:
            assert second == first
            assert b"ListAllMyBucketsResult" in await _buckets(second)
    assert (first.socket.stat().st_mode & 0o777) == 0o600


@pytest.mark.anyio
async def test_ends_with_its_starter_when_asked_to(tmp_path: Path) -> None:
    async with local_aws(tmp_path, tmp_path / "x.log", keep=False) as server:
        assert server.identity.alive()
    assert not server.identity.alive()
    with pytest.raises(ProcessGone):
        Process.adopt(server.identity)


@pytest.mark.anyio
async def test_comes_back_when_it_dies(tmp_path: Path) -> None:
    async with local_aws(tmp_path, tmp_path / "x.log", keep=False) as server:
        os.kill(server.identity.pid, signal.SIGKILL)
        assert b"ListAllMyBucketsResult" in await _buckets(server)


@pytest.mark.anyio
async def test_a_stale_record_and_socket_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"pid": 1, "start_time": 1}')
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "local-aws.sock"))
    async with local_aws(tmp_path, tmp_path / "x.log", keep=False) as server:
        assert b"ListAllMyBucketsResult" in await _buckets(server)
