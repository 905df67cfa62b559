"""The stub's decisions: hostile bytes, what is not forwarded, what is hidden of an answer."""

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node import dns as stub
from microvmd.node.dns import (
    Forwarder,
    Stub,
    SystemResolvers,
    Upstream,
    answer_locally,
    encode,
    narrow,
    parse_query,
    screen,
    upstream_query,
)


def refused(address: ipaddress.IPv4Address) -> bool:
    return address.is_private


class Anything:
    """A policy without names."""

    any_name = True

    def opens(self, name: str) -> bool:
        return False

    def refuses(self, address: ipaddress.IPv4Address, name: str | None) -> bool:
        return refused(address)

    async def pin(self, name: str, addresses: Mapping[ipaddress.IPv4Address, int]) -> None:
        raise AssertionError(name)


def make(
    name: str = "example.org", kind: str = "A", payload: int | None = None
) -> dns.message.Message:
    return dns.message.make_query(name, kind, use_edns=payload is not None, payload=payload)


def answer(query: dns.message.Message, *records: str) -> dns.message.Message:
    """Records as `A 8.8.8.8`, all for the name that is asked."""
    reply = dns.message.make_response(query)
    for record in records:
        kind, _, data = record.partition(" ")
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", kind, data))
    return reply


@given(st.binary(max_size=600))
def test_any_bytes_are_parsed_or_ignored(wire: bytes) -> None:
    query = parse_query(wire)
    if query is not None:
        local = answer_locally(query)
        if local is not None:
            encode(query, local, udp=True)
            encode(query, local, udp=False)


@given(st.binary(max_size=400), st.integers(0, 0xFFFF), st.integers(0, 3))
def test_bytes_behind_a_valid_header_are_parsed_or_ignored(
    body: bytes, flags: int, questions: int
) -> None:
    wire = struct.pack("!HHHHHH", 7, flags & ~dns.flags.QR, questions, 0, 0, 1) + body
    query = parse_query(wire)
    if query is None:
        return
    local = answer_locally(query)
    reply = local or screen(query, answer(query, "A 8.8.8.8"), refused)
    assert dns.message.from_wire(encode(query, reply, udp=False)).id == 7


@given(st.binary(min_size=12, max_size=300), st.integers(0, 299), st.integers(1, 255))
def test_a_damaged_query_never_breaks_the_stub(tail: bytes, place: int, change: int) -> None:
    wire = bytearray(make("a.example.org", payload=1232).to_wire() + tail)
    wire[place % len(wire)] ^= change
    query = parse_query(bytes(wire))
    if query is not None and answer_locally(query) is None:
        upstream_query(query).to_wire()


def records(count: int) -> bytes:
    """Addresses of the name that was asked for."""
    return b"".join(b"\xc0\x0c" + struct.pack("!2HIHI", 1, 1, 60, 4, n) for n in range(count))


ASKED = make().to_wire()[12:]
CROWDED = {
    "questions": struct.pack("!6H", 7, 0, 4000, 0, 0, 0) + ASKED + (b"\xc0\x0c\0\1\0\1" * 3999),
    "answers": struct.pack("!6H", 7, 0, 1, 4000, 0, 0) + ASKED + records(4000),
    "authorities": struct.pack("!6H", 7, 0, 1, 0, 4000, 0) + ASKED + records(4000),
    "others": struct.pack("!6H", 7, 0, 1, 0, 0, 4000) + ASKED + records(4000),
    "a few": struct.pack("!6H", 7, 0, 1, 20, 0, 0) + ASKED + records(20),
    "options": (
        struct.pack("!6H", 7, 0, 1, 0, 0, 1)
        + ASKED
        + b"\0"
        + struct.pack("!2HIH", 41, 1232, 0, 60000)
        + struct.pack("!2H", 65001, 0) * 15000
    ),
}


@pytest.mark.parametrize("kind", CROWDED)
def test_what_a_query_does_not_need_is_not_parsed(kind: str) -> None:
    """It is all well-formed, so a parser makes an object of each."""
    careless = dns.message.from_wire(CROWDED[kind])
    made = [record for section in careless.sections[1:] for rrset in section for record in rrset]
    assert len(made) + len(careless.options) + len(careless.question) > 20
    assert parse_query(CROWDED[kind]) is None


def test_a_query_may_be_as_long_as_a_name() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert parse_query(make(longest, payload=1232).to_wire()) is not None


def test_an_answer_is_not_a_query() -> None:
    assert parse_query(answer(make()).to_wire()) is None


def test_a_query_for_an_ipv4_address_is_forwarded() -> None:
    assert answer_locally(make()) is None


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB"])
def test_what_could_hold_ipv6_is_empty(kind: str) -> None:
    reply = answer_locally(make(kind=kind))

    assert reply is not None
    assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])


@pytest.mark.parametrize("kind", ["AXFR", "IXFR", "ANY"])
def test_transfers_and_any_are_refused(kind: str) -> None:
    reply = answer_locally(make(kind=kind))

    assert reply is not None
    assert reply.rcode() == dns.rcode.REFUSED


def test_other_classes_and_opcodes_are_not_served() -> None:
    chaos = answer_locally(dns.message.make_query("version.bind", "TXT", "CH"))
    assert chaos is not None
    assert chaos.rcode() == dns.rcode.REFUSED
    status = make()
    status.set_opcode(dns.opcode.STATUS)
    local = answer_locally(status)
    assert local is not None
    assert local.rcode() == dns.rcode.NOTIMP


def test_only_the_question_goes_out() -> None:
    query = make(payload=4096)
    query.additional.append(dns.rrset.from_text("secret.", 1, "IN", "TXT", "data"))

    fresh = upstream_query(query)

    assert fresh.question == query.question
    assert not fresh.additional


@pytest.mark.parametrize("record", ["A 10.0.0.1", "A 127.0.0.1", "A 169.254.169.254"])
def test_an_answer_into_a_denied_range_is_refused_as_a_whole(record: str) -> None:
    query = make()
    reply = screen(query, answer(query, "A 8.8.8.8", record), refused)

    assert reply.rcode() == dns.rcode.REFUSED
    assert not reply.answer


def test_an_alias_to_a_denied_address_is_refused() -> None:
    query = make()
    reply = answer(query, "CNAME inner.example.org.")
    reply.answer.append(dns.rrset.from_text("inner.example.org.", 60, "IN", "A", "192.168.0.1"))

    assert screen(query, reply, refused).rcode() == dns.rcode.REFUSED


def test_other_records_and_codes_pass() -> None:
    query = make(kind="TXT")
    reply = answer(query, "TXT hello", "AAAA ::1")
    reply.flags |= dns.flags.TC

    screened = screen(query, reply, refused)

    assert [item.rdtype for item in screened.answer] == [dns.rdatatype.TXT]
    assert screened.flags & dns.flags.TC
    assert screened.id == query.id


@pytest.mark.parametrize(("payload", "size"), [(None, 512), (100, 512), (9000, 1232)])
def test_a_long_answer_over_udp_is_cut(payload: int | None, size: int) -> None:
    query = make(kind="TXT", payload=payload)
    long = answer(query, *(f'TXT "{number}{"x" * 200}"' for number in range(20)))

    wire = encode(query, screen(query, long, refused), udp=True)

    assert len(wire) <= size
    assert dns.message.from_wire(wire).flags & dns.flags.TC
    assert len(encode(query, screen(query, long, refused), udp=False)) > 4000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", Upstream("192.0.2.1", 53)),
        ("192.0.2.1:5353", Upstream("192.0.2.1", 5353)),
        ("2001:db8::1", Upstream("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", Upstream("2001:db8::1", 5353)),
        ("[2001:db8::1]", Upstream("2001:db8::1", 53)),
    ],
)
def test_resolvers_are_written_with_or_without_port(text: str, expected: Upstream) -> None:
    assert Upstream.parse(text) == expected


@pytest.mark.parametrize("text", ["", "resolver.test", "192.0.2.1:x", "[::1", "192.0.2.1:70000"])
def test_other_texts_are_no_resolver(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Upstream.parse(text)


def test_the_hosts_resolvers_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search x\nnameserver 192.0.2.1\n")
    resolvers = SystemResolvers(path)
    assert resolvers() == (Upstream("192.0.2.1"),)

    (tmp_path / "new").write_text("nameserver 192.0.2.2\nnameserver 2001:db8::1\n")
    (tmp_path / "new").rename(path)
    assert resolvers() == (Upstream("192.0.2.2"), Upstream("2001:db8::1"))

    path.unlink()
    assert resolvers() == (Upstream("192.0.2.2"), Upstream("2001:db8::1"))


def forwarded(upstreams: Sequence[Upstream], *, udp: bool) -> dns.message.Message:
    async def main() -> bytes | None:
        async with asyncio.TaskGroup() as tasks:
            forwarder = Forwarder(tasks, lambda: upstreams)
            return await forwarder.answer(make().to_wire(), Anything(), udp=udp)

    wire = asyncio.run(main())
    assert wire is not None
    return dns.message.from_wire(wire)


def test_without_a_resolver_the_guest_is_told() -> None:
    assert forwarded([], udp=True).rcode() == dns.rcode.SERVFAIL


NAME = "example.org."


def narrowed(*records: str) -> tuple[dns.message.Message, list[str]]:
    """Records with their owner: `example.org. 60 IN A 8.8.8.8`."""
    query = make()
    reply = dns.message.make_response(query)
    for record in records:
        owner, ttl, _, kind, data = record.split(maxsplit=4)
        reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    found, addresses = narrow(query, dns.message.from_wire(reply.to_wire()), refused)
    return found, [f"{address} {ttl}" for address, ttl in addresses.items()]


def test_addresses_at_the_end_of_aliases_are_opened() -> None:
    reply, addresses = narrowed(
        f"{NAME} 9 IN CNAME b.", "b. 99999999 IN CNAME c.", "c. 99999999 IN A 8.8.8.8"
    )

    assert addresses == ["8.8.8.8 3600"]
    assert [item.ttl for item in reply.answer] == [3600] * 3


def test_what_has_nothing_to_do_with_the_question_is_left_out() -> None:
    reply, addresses = narrowed(f"{NAME} 9 IN A 8.8.8.8", "b. 9 IN A 8.8.4.4", "c. 9 IN A 10.0.0.1")

    assert addresses == ["8.8.8.8 9"]
    assert [item.name.to_text() for item in reply.answer] == [NAME]


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([f"{NAME} 9 IN A 8.8.8.8", f"{NAME} 9 IN A 10.0.0.1"], dns.rcode.REFUSED),
        ([f"{NAME} 9 IN CNAME b.", "b. 9 IN A 127.0.0.1"], dns.rcode.REFUSED),
        ([f"{NAME} 9 IN CNAME {NAME}"], dns.rcode.SERVFAIL),
        ([f"{NAME} 9 IN TXT x"], dns.rcode.NOERROR),
        ([f"{NAME} 9 IN CNAME b."], dns.rcode.NOERROR),
        ([], dns.rcode.NOERROR),
    ],
)
def test_what_opens_nothing(records: list[str], code: dns.rcode.Rcode) -> None:
    reply, addresses = narrowed(*records)

    assert (reply.rcode(), reply.answer, addresses) == (code, [], [])


def test_an_answer_that_was_cut_opens_nothing() -> None:
    query = make()
    cut = answer(query, "A 8.8.8.8")
    cut.flags |= dns.flags.TC

    reply, addresses = narrow(query, cut, refused)

    assert (reply.answer, addresses) == ([], {})
    assert reply.flags & dns.flags.TC


@given(st.binary(max_size=400))
def test_any_answer_is_narrowed(body: bytes) -> None:
    wire = struct.pack("!HHHHHH", 7, 0x8180, 0, 3, 0, 0) + body
    try:
        found = dns.message.from_wire(wire, ignore_trailing=True)
    except dns.exception.DNSException:
        return
    narrow(make(), found, refused)


def test_a_guest_has_so_many_bytes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over UDP what is beyond that is dropped, over TCP it waits; both count together."""
    monkeypatch.setattr(stub, "RATE", 1)
    monkeypatch.setattr(stub, "BURST", 5000)
    wire = make(kind="AAAA").to_wire()

    async def main() -> int:
        loop = asyncio.get_running_loop()
        answered = 0
        with (
            socket.socket(type=socket.SOCK_DGRAM) as server,
            socket.socket(type=socket.SOCK_DGRAM) as guest,
            socket.create_server(("127.0.0.1", 0)) as listener,
        ):
            for item in (server, guest, listener):
                item.setblocking(False)
            server.bind(("127.0.0.1", 0))
            guest.connect(server.getsockname())
            async with asyncio.TaskGroup() as tasks:
                made = Stub(Forwarder(tasks, tuple), [server, listener], Anything())
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                with contextlib.suppress(TimeoutError):
                    while True:
                        guest.send(wire)
                        async with asyncio.timeout(1):
                            await loop.sock_recv(guest, 1000)
                        answered += 1
                # The first of a connection is answered: it is read before anything is counted.
                writer.write((struct.pack("!H", len(wire)) + wire) * 2)
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                await reader.readexactly(length)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await reader.readexactly(2)
                writer.close()
                made.close()
        return answered

    assert 10 < asyncio.run(main()) < 20


def test_an_answer_over_tcp_is_bounded() -> None:
    """Its name may be the guest's own, and so its server."""

    async def main(count: int) -> dns.rcode.Rcode:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            query = dns.message.from_wire(await reader.readexactly(length))
            reply = answer(query, *["A 8.8.8.8"], *[f"TXT {n:0200}" for n in range(count)])
            wire = reply.to_wire(max_size=65535)
            writer.write(struct.pack("!H", len(wire)) + wire)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            upstream = Upstream("127.0.0.1", server.sockets[0].getsockname()[1])
            async with asyncio.TaskGroup() as tasks:
                forwarder = Forwarder(tasks, lambda: [upstream])
                wire = await forwarder.answer(make().to_wire(), Anything(), udp=False)
        assert wire is not None
        return dns.message.from_wire(wire).rcode()

    assert asyncio.run(main(10)) == dns.rcode.NOERROR
    assert asyncio.run(main(100)) == dns.rcode.SERVFAIL
