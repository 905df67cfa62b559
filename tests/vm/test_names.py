"""Names that a guest may reach: asked for, opened, checked in the connection, and closed again.

Attacks on it are in tests/security/test_egress.py.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import dns.rcode
import pytest

from microvmd.model.egress import Egress
from microvmd.node.commands import nft, query
from microvmd.node.network import NetworkPool
from tests import netlab
from tests.namelab import (
    ALLOWED,
    CDN,
    GRANT,
    OTHER,
    RECORDS,
    answered,
    by_name,
    get,
    hello,
    only_names,
    servers,
    until,
)
from tests.networld import World, ask, in_world, settings

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def with_names(
    directory: Path, test: Callable[[World], Awaitable[None]], egress: Egress | None = None
) -> None:
    in_world(directory, test, egress or only_names(), RECORDS)


async def pins(world: World) -> str:
    listed = await query("nsenter", f"--net={world.network.path}", "nft", "list", "sets")
    return "pins_" + listed.decode().split("pins_", 1)[-1]


def was_reset(held: socket.socket) -> bool:
    """Whether the connection is at its end, after what had still come."""
    try:
        while held.recv(1000):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True


def test_a_name_is_reached_when_it_was_asked_for(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world):
            assert not await answered(world, ALLOWED, 443, hello("allowed.test"))
            answer = await ask(world.guest, "ALLOWED.Test.")
            assert [str(item).lower() for item in answer.answer] == [
                f"allowed.test. 60 in a {ALLOWED}"
            ]
            assert await answered(world, ALLOWED, 443, hello("allowed.test"))
            assert await answered(world, ALLOWED, 80, get("allowed.test"))
            assert await answered(world, ALLOWED, 80, get("Allowed.Test:80"))
            for port in (22, 8080, 9443, 9080):
                assert not await answered(world, ALLOWED, port, b"x")
            assert not await answered(world, OTHER, 443, hello("allowed.test"))

    with_names(tmp_path, test)


def test_wildcards_and_aliases(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world):
            assert (await ask(world.guest, "sub.wild.test", tcp=True)).answer
            assert await answered(world, ALLOWED, 443, hello("sub.wild.test"))
            answer = await ask(world.guest, "cdn.test")
            assert len(answer.answer) == 2
            assert await answered(world, CDN, 443, hello("cdn.test"))
            # The alias is no name that is allowed.
            assert not await answered(world, CDN, 443, hello("edge.cdn.example"))

    with_names(tmp_path, test)


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("other.test", "A", dns.rcode.REFUSED),
        ("wild.test", "A", dns.rcode.REFUSED),
        ("allowed.test.evil.test", "A", dns.rcode.REFUSED),
        ("allowed.test", "TXT", dns.rcode.REFUSED),
        ("allowed.test", "MX", dns.rcode.REFUSED),
        ("allowed.test", "AAAA", dns.rcode.NOERROR),
        ("gone.wild.test", "A", dns.rcode.NXDOMAIN),
        ("private.test", "A", dns.rcode.REFUSED),
        ("zero.test", "A", dns.rcode.REFUSED),
        ("meta.test", "A", dns.rcode.REFUSED),
        ("loop.test", "A", dns.rcode.SERVFAIL),
        ("x" * 63 + "." + "y" * 40 + ".wild.test", "A", dns.rcode.REFUSED),
        ("a.b.c.d.e.f.wild.test", "A", dns.rcode.REFUSED),
    ],
)
def test_what_opens_nothing(name: str, kind: str, code: int, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for tcp in (False, True):
            answer = await ask(world.guest, name, kind=kind, tcp=tcp)
            assert (answer.rcode(), answer.answer) == (code, [])
        assert "elements" not in await pins(world)

    with_names(tmp_path, test)


def test_addresses_are_bounded_and_last_as_long_as_the_answer(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        answer = await ask(world.guest, "many.test", tcp=True)
        assert len(answer.answer[0]) == 32
        listed = await pins(world)
        assert listed.count("203.0.113.") == 32
        assert listed.count("timeout 1m30s") == 32

    with_names(tmp_path, test)


def test_private_names_need_their_network(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world):
            assert (await ask(world.guest, "private.test")).answer
            assert await answered(world, netlab.PRIVATE, 443, hello("private.test"))
            assert (await ask(world.guest, "allowed.test")).rcode() == dns.rcode.REFUSED

    inside = by_name("private.test", network="10.99.0.0/16")
    with_names(tmp_path, test, Egress(reaches=(inside,)))


def test_other_ports_are_open_by_address(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with netlab.echo(await world.internet.socket(), (ALLOWED, 5432)):
            there = (ALLOWED, 5432)
            assert not await netlab.reaches(await world.guest.socket(), there)
            await ask(world.guest, "allowed.test")
            assert await netlab.reaches(await world.guest.socket(), there)
            await world.pool.revoke({GRANT})
            assert not await netlab.reaches(await world.guest.socket(), there)

    with_names(tmp_path, test, Egress(reaches=(by_name("allowed.test", ports=((5400, 5500),)),)))


def test_what_is_open_anyway_is_not_looked_into(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world):
            await ask(world.guest, "allowed.test")
            assert (await ask(world.guest, "other.test")).answer
            assert await answered(world, ALLOWED, 443, b"not TLS")
            assert await answered(world, OTHER, 80, b"not HTTP")

    with_names(tmp_path, test, replace(only_names(), internet=True))


def test_an_open_connection_outlasts_its_address_and_not_its_right(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world) as got:
            await ask(world.guest, "allowed.test")
            with await world.guest.socket() as held:
                await asyncio.to_thread(held.connect, (ALLOWED, 443))
                held.sendall(hello("allowed.test"))
                assert await asyncio.to_thread(held.recv, 1000)
                (pin_set,) = re.findall("pins_[0-9a-f]+", await pins(world))
                await nft(f"flush set inet vm {pin_set}\n", world.network.path)
                assert not await answered(world, ALLOWED, 443, hello("allowed.test"))
                held.send(b"still open")
                await until(lambda: any(data == b"still open" for _, data in got))
                await world.pool.revoke({GRANT})
                held.send(b"more")
                assert await asyncio.to_thread(was_reset, held)

    with_names(tmp_path, test)


def test_a_guard_that_died_is_back_with_the_next_name(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world):
            await ask(world.guest, "allowed.test")
            world.network._guard.end()
            assert not await answered(world, ALLOWED, 443, hello("allowed.test"))
            await ask(world.guest, "sub.wild.test")
            await ask(world.guest, "cdn.test")
            assert await answered(world, CDN, 443, hello("cdn.test"))

    with_names(tmp_path, test)


def test_a_guard_outlives_the_pool_and_ends_with_its_network(tmp_path: Path) -> None:
    async def main() -> None:
        made, egress = settings(tmp_path), only_names()
        async with NetworkPool(made) as pool, pool.network(egress) as network:
            network.detach()
        assert network._guard.allowed == egress.patterns
        pid = (made.guards / network.name / "pid").read_text()
        async with NetworkPool(made) as pool, pool.adopt(network.name, egress) as adopted:
            assert adopted._guard.allowed == egress.patterns
            assert (made.guards / network.name / "pid").read_text() == pid
        assert adopted._guard.allowed is None
        assert not (made.guards / network.name).exists()

    asyncio.run(main())


def test_tls_in_pieces_is_understood(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with servers(world) as got:
            await ask(world.guest, "allowed.test")
            whole = hello("allowed.test")
            pieces = [whole[at : at + 100] for at in range(0, len(whole), 100)]
            assert await answered(world, ALLOWED, 443, *pieces)
            assert got[-1][0] == ALLOWED
            assert got[-1][1] == whole

    with_names(tmp_path, test)


def test_a_change_leaves_what_keeps_its_right(tmp_path: Path) -> None:
    """Names are added and taken away while connections are open."""

    async def test(world: World) -> None:
        async with servers(world) as got:
            await ask(world.guest, "allowed.test")
            with await world.guest.socket() as held:
                await asyncio.to_thread(held.connect, (ALLOWED, 443))
                held.sendall(hello("allowed.test"))
                assert await asyncio.to_thread(held.recv, 1000)

                more = Egress(reaches=(by_name("allowed.test"), by_name("*.test", grant="nc-2:1")))
                await world.pool.change(world.network, more)
                held.send(b"still open")
                await until(lambda: any(data == b"still open" for _, data in got))
                assert await answered(world, ALLOWED, 443, hello("allowed.test"))
                assert (await ask(world.guest, "other.test")).answer
                assert await answered(world, OTHER, 443, hello("other.test"))

                await world.pool.change(world.network, only_names("other.test"))
                assert await asyncio.to_thread(was_reset, held)
            assert not await answered(world, ALLOWED, 443, hello("allowed.test"))
            await ask(world.guest, "other.test")
            assert await answered(world, OTHER, 443, hello("other.test"))

    with_names(tmp_path, test, only_names("allowed.test"))
