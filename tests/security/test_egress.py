"""Ways around the names that a guest may reach. Each is shown to succeed with the defence off."""

import asyncio
import re
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from microvmd.model.egress import INTERNET
from microvmd.node import nftables
from microvmd.node.commands import nft
from microvmd.node.name_guard import CONNECTIONS, HTTP_PORT, TLS_PORT
from tests.namelab import (
    ALLOWED,
    CDN,
    OTHER,
    RECORDS,
    answered,
    get,
    hello,
    only_names,
    servers,
)
from tests.netlab import disarm, echo, reaches
from tests.networld import World, ask, in_world

pytestmark = [pytest.mark.root, pytest.mark.security, pytest.mark.timeout(120)]


async def unguarded(world: World) -> None:
    """Let everything pass that was asked for by name, whatever the connection says."""
    await nft("flush chain inet vm from_guest_named\n", world.network.path)
    await disarm(world.network.path, "forwarded")


async def pin(world: World, address: str) -> None:
    """Open an address as if an allowed name had led there."""
    (reach,) = only_names().reaches
    text = nftables.pin_update(reach, {IPv4Address(address): 60})
    await nft(text, world.network.path)


def extended(wire: bytes, number: int, content: bytes) -> bytes:
    """A ClientHello with one more extension at its end."""
    record, body = wire[:5], wire[5:]
    fixed = 4 + 2 + 32
    at = fixed + 1 + body[fixed]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    more = number.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content
    extensions = body[at + 2 :] + more
    hello_body = body[4:at] + len(extensions).to_bytes(2, "big") + extensions
    handshake = body[:1] + len(hello_body).to_bytes(3, "big") + hello_body
    return record[:3] + len(handshake).to_bytes(2, "big") + handshake


def fragmented(wire: bytes) -> bytes:
    """The same ClientHello in two records."""
    record, body = wire[:3], wire[5:]
    halves = body[:40], body[40:]
    return b"".join(record + len(half).to_bytes(2, "big") + half for half in halves)


def named(name: str) -> bytes:
    """The content of a server_name extension."""
    entry = b"\x00" + len(name).to_bytes(2, "big") + name.encode()
    return len(entry).to_bytes(2, "big") + entry


def test_an_address_without_its_name(tmp_path: Path) -> None:
    """The address of a name that is not allowed, and the forged name of one that is."""

    async def test(world: World) -> None:
        async with servers(world):
            await ask(world.guest, "allowed.test")
            for port, data in ((443, hello("allowed.test")), (80, get("allowed.test"))):
                assert not await answered(world, OTHER, port, data)
            await pin(world, OTHER)
            assert await answered(world, OTHER, 443, hello("allowed.test"))
            await unguarded(world)
            assert await answered(world, OTHER, 443, hello("other.test"))

    in_world(tmp_path, test, only_names(), RECORDS)


TLS = {
    "another name": hello("other.test"),
    "no name": hello(None),
    "a name above": hello("wild.test"),
    "a name behind": hello("allowed.test.evil.test"),
    "no TLS": b"SSH-2.0-x\r\n",
    "Encrypted Client Hello": extended(hello("allowed.test"), 0xFE0D, b"\x00" * 64),
    "two names": extended(hello("allowed.test"), 0, named("other.test")),
    "a zero in the name": extended(hello(None), 0, named("other.test\x00allowed.test")),
    "a name of another kind": extended(hello(None), 0, b"\x00\x0f\x01\x00\x0callowed.test"),
    "two records": fragmented(hello("allowed.test")),
    "HTTP": get("allowed.test"),
}


@pytest.mark.parametrize("kind", list(TLS))
def test_a_shared_address_is_open_for_its_name_alone(kind: str, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world) as got:
            await ask(world.guest, "allowed.test")
            assert not await answered(world, ALLOWED, 443, TLS[kind])
            assert got == []
            assert await answered(world, ALLOWED, 443, hello("allowed.test"))
            await unguarded(world)
            assert await answered(world, ALLOWED, 443, TLS[kind])

    in_world(tmp_path, test, only_names(), RECORDS)


HTTP = {
    "another name": get("other.test"),
    "another name by target": get("allowed.test", "http://other.test/"),
    "another name by a second header": get("allowed.test").replace(
        b"\r\n\r\n", b"\r\nHost: other.test\r\n\r\n"
    ),
    "another name in the next request": get("allowed.test") + get("other.test"),
    "no name": b"GET / HTTP/1.0\r\n\r\n",
    "an address": get(ALLOWED),
    "a port": get("allowed.test:8080"),
    "user information": get("allowed.test@other.test"),
    "a tunnel": b"CONNECT other.test:443 HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
    "HTTP/2 by upgrade": get("allowed.test").replace(
        b"\r\n\r\n",
        b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    ),
    "no HTTP": b"SSH-2.0-x\r\n",
}


@pytest.mark.parametrize("kind", list(HTTP))
def test_http_is_open_for_its_name_alone(kind: str, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world) as got:
            await ask(world.guest, "allowed.test")
            await answered(world, ALLOWED, 80, HTTP[kind])
            await unguarded(world)
            assert await answered(world, ALLOWED, 80, HTTP[kind])
        # What came through the guard, and what the same bytes are without it.
        *through, direct = [data for _, data in got]
        assert direct == HTTP[kind]
        assert all(b"other.test" not in data and b"h2c" not in data for data in through)
        assert len(through) <= ("next request" in kind)

    in_world(tmp_path, test, only_names(), RECORDS)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_another_name_server(kind: int, tmp_path: Path) -> None:
    """Its answers would open nothing; and it is not reached."""

    async def test(world: World) -> None:
        async with servers(world):
            await ask(world.guest, "allowed.test")
            for address in (OTHER, ALLOWED):
                with echo(await world.internet.socket(kind), (address, 53)):
                    there = (address, 53)
                    assert not await reaches(await world.guest.socket(kind), there)
            await disarm(world.network.path, "forwarded")
            with echo(await world.internet.socket(kind), (OTHER, 53)):
                assert await reaches(await world.guest.socket(kind), (OTHER, 53))

    in_world(tmp_path, test, only_names(), RECORDS)


class Heard(dict[str, str]):
    """Records of no name, which note what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        self.names.append(key)
        return default


QUESTIONS = (
    ("sEcReT.WiLd.tEsT", "A"),
    ("secret.other.test", "A"),
    ("secret.wild.test", "TXT"),
    ("sec\\000ret.wild.test", "A"),
    ("x" * 63 + ".secret" * 5 + ".wild.test", "A"),
)


def test_names_carry_nothing_out(tmp_path: Path) -> None:
    """The case of letters, other types and other names never come to a name server."""
    heard = Heard()

    async def test(world: World) -> None:
        for name, kind in QUESTIONS:
            await ask(world.guest, name, kind=kind)
            await ask(world.guest, name, kind=kind, tcp=True)

    in_world(tmp_path, test, only_names(), heard)
    assert heard.names == ["secret.wild.test."] * 2
    heard.names.clear()
    (tmp_path / "open").mkdir()
    in_world(tmp_path / "open", test, INTERNET, heard)
    assert heard.names == [f"{name}." for name, _ in QUESTIONS for _ in range(2)]


def test_the_guard_forwards_to_nobody_else(tmp_path: Path) -> None:
    """Its own ports, asked directly, and through it the namespace's services."""

    async def test(world: World) -> None:
        async with servers(world) as got:
            await ask(world.guest, "allowed.test")
            for port in (TLS_PORT, HTTP_PORT):
                for data in (hello("allowed.test"), get("allowed.test")):
                    assert not await answered(world, nftables.GATEWAY, port, data)
            assert not await answered(world, CDN, 443, hello("allowed.test"))
            assert got == []
            await pin(world, CDN)
            assert await answered(world, CDN, 443, hello("allowed.test"))

    in_world(tmp_path, test, only_names(), RECORDS)


@pytest.mark.parametrize("port", [TLS_PORT, HTTP_PORT])
def test_one_request_to_the_guard_itself_takes_all_of_it(port: int, tmp_path: Path) -> None:
    """Where the guest reaches its ports: it forwards to where it was asked, that is to itself."""
    wanted = {TLS_PORT: hello("allowed.test"), HTTP_PORT: get("allowed.test")}[port]

    async def test(world: World) -> None:
        async def full() -> bool:
            told = await world.network._guard._command("show info")
            (taken,) = re.findall(r"^CurrConns: (\d+)$", told, re.MULTILINE)
            return int(taken) > CONNECTIONS // 2

        await ask(world.guest, "allowed.test")
        assert not await answered(world, nftables.GATEWAY, port, wanted)
        assert not await full()
        await disarm(world.network.path, "local")
        with await world.guest.socket() as client:
            await asyncio.to_thread(client.connect, (nftables.GATEWAY, port))
            client.sendall(wanted)
            async with asyncio.timeout(20):
                while not await full():
                    pass

    in_world(tmp_path, test, only_names(), RECORDS)
