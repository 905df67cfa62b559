"""Reading HAProxy's maps and streams; refusing what would be another command."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from microvmd.edge.config import EdgeFiles
from microvmd.edge.routes import Routes, parse_map, streams_to, write_keys

STREAMS = """0x56030ffc8a10: [24/Nov/2026:23:32:00.222025] id=10 proto=tcpv4 source=127.0.0.1:46954
  frontend=endpoints (id=2 mode=http), listener=? (id=1) addr=127.0.0.1:18443
  backend=guest (id=3 mode=http) addr=127.0.0.1:45530
  server=guest (id=1) addr=127.0.0.9:8080
0x56030ff8fe40: [24/Nov/2026:23:32:15.574830] id=18 proto=tcpv4 source=127.0.0.9:1
  server=guest (id=1) addr=127.0.0.90:8080
0x56030ff8fe60: [24/Nov/2026:23:32:15.574830] id=19 proto=unix_stream source=unix:1
  server=<NONE> (id=-1)
"""


def test_streams_of_one_address() -> None:
    assert streams_to(STREAMS, "127.0.0.9") == ["0x56030ffc8a10"]
    assert streams_to(STREAMS, "127.0.0.90") == ["0x56030ff8fe40"]
    assert streams_to(STREAMS, "127.0.0.1") == []
    assert streams_to("", "127.0.0.1") == []


def test_map_entries() -> None:
    assert parse_map("0x1 vm-a 10.0.0.1\n0x2 vm-b 10.0.0.2\n\n") == {
        "vm-a": "10.0.0.1",
        "vm-b": "10.0.0.2",
    }
    assert parse_map("Unknown map identifier. Please use #<id> or <file>.\n") == {}


@pytest.mark.parametrize(
    ("endpoint_id", "address"),
    [("a b", "10.0.0.1"), ("a;b", "10.0.0.1"), ("", "10.0.0.1"), ("a", "x"), ("a", "1.1.1.1\nq")],
)
def test_what_is_no_route(tmp_path: Path, endpoint_id: str, address: str) -> None:
    routes = Routes(EdgeFiles(root=tmp_path, run=tmp_path))
    with pytest.raises(ValueError, match=r"endpoint id|address"):
        asyncio.run(routes.add(endpoint_id, address))


def test_routes_are_kept_while_haproxy_is_down(tmp_path: Path) -> None:
    async def scenario() -> None:
        routes = Routes(EdgeFiles(root=tmp_path, run=tmp_path))
        await routes.add("vm-a", "10.0.0.1")
        await routes.add("vm-b", "10.0.0.2")
        assert await routes.remove("vm-b") == 0
        routes.write_file()

    asyncio.run(scenario())
    assert (tmp_path / "routes.map").read_text() == "vm-a 10.0.0.1\n"


def test_keys_are_for_our_eyes_only(tmp_path: Path) -> None:
    write_keys(EdgeFiles(root=tmp_path, run=tmp_path), {"kid": "secret"})
    assert (tmp_path / "keys.map").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys.map").read_text() == "kid secret\n"
