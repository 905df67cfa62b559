"""The DNS stub of each guest: a small forwarder on sockets that live in the guest's namespace.

Guests may send no UDP but to this stub, and we ask the host's resolvers for them. Names must not
lead where addresses may not: an answer that holds a denied address is refused as a whole (DNS
rebinding).
There is no IPv6, so AAAA is answered empty at once, and so are HTTPS and SVCB, whose hints would
otherwise have to be screened too.

Where a guest may reach some names only, it may ask for these alone, and for nothing but their
addresses. What it then gets is made anew from the end of the chain of aliases, and it gets it when
its packet filter lets these addresses through.

The guest is hostile: what it sends is parsed by dnspython, queries in flight and connections are
bounded per guest, and its packet filter bounds the rate. To parse and write a record costs the node
a hundred times what it costs to send it, and who asks may also be who answers: so a query is short,
an answer is bounded, and a guest has so many bytes of both each second.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
import structlog

from microvmd.model.names import normal
from microvmd.model.pace import Pace
from microvmd.vmm.process import ProcessFailed, ProcessStuck

log = structlog.get_logger(__name__)

Work = Callable[[], Awaitable[None]]
Refused = Callable[[ipaddress.IPv4Address], bool]
"""Whether a guest must not learn an address."""


class Policy(Protocol):
    """What one guest may ask and learn. Names are in their one form (``model.names``)."""

    @property
    def any_name(self) -> bool:
        """Whether names may be asked for that open nothing."""
        ...

    def opens(self, name: str) -> bool:
        """Whether the addresses of this name are opened by asking for it."""
        ...

    def refuses(self, address: ipaddress.IPv4Address, name: str | None) -> bool:
        """Whether the guest must not learn this address by this name."""
        ...

    async def pin(self, name: str, addresses: Mapping[ipaddress.IPv4Address, int]) -> None:
        """Open addresses, which the name has for so many seconds. Raises ProcessFailed."""
        ...


PORT = 53
UPSTREAM_LIMIT = 2.0
"""Seconds that one resolver gets for one answer."""
CONNECTION_LIMIT = 10.0
"""Seconds a guest's TCP connection may be silent."""
IN_FLIGHT = 64
"""Queries of one guest that wait for an answer; more are dropped, and the guest asks again."""
CONNECTIONS = 8
"""TCP connections of one guest."""
QUERIES_PER_CONNECTION = 64
LONGEST_QUERY = 512
"""Bytes: of a name there are 255 at most, and what else a query needs is short."""
LONGEST_ANSWER = 16 * 1024
"""Bytes of an answer over TCP."""
RATE, BURST = 64 * 1024, 512 * 1024
"""Bytes of queries and answers of one guest, each second and at once. Over UDP what is beyond that
is dropped, and the guest asks again; a TCP connection waits."""
_QUERY_COST = 256
"""Bytes that a query counts beside its own and its answer's."""
UDP_SIZE = 1232
"""Largest answer over UDP; what the DNS flag day of 2020 settled on."""
MOST_ADDRESSES = 32
"""Addresses of one answer that a guest gets where they are opened by it."""
LONGEST_TTL = 3600
_BURST = 16
_EMPTY = {dns.rdatatype.AAAA, dns.rdatatype.HTTPS, dns.rdatatype.SVCB}
_NOT_FORWARDED = {dns.rdatatype.AXFR, dns.rdatatype.IXFR, dns.rdatatype.ANY}
_HEADER_SIZE = 12

_UPSTREAM = re.compile(
    r"(\[(?P<bracketed>[^\[\]]+)\]|(?P<four>[0-9.]+))(:(?P<port>[0-9]{1,5}))?|[0-9a-fA-F:.]+"
)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A resolver that is asked on behalf of guests."""

    address: str
    port: int = PORT

    @classmethod
    def parse(cls, text: str) -> "Upstream":
        """From `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1` or `[2001:db8::1]:5353`."""
        found = _UPSTREAM.fullmatch(text)
        if found is None:
            raise ValueError(f"resolver {text!r}: wanted ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT")
        address = found["bracketed"] or found["four"] or text
        port = int(found["port"] or PORT)
        if not 0 < port < 1 << 16:
            raise ValueError(f"resolver {text!r}: no such port")
        return cls(str(ipaddress.ip_address(address)), port)


class SystemResolvers:
    """The resolvers of the host, read again when the file changes (a DHCP lease, a VPN)."""

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._upstreams: tuple[Upstream, ...] = ()

    def __call__(self) -> Sequence[Upstream]:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                found = dns.resolver.Resolver(str(self._path)).nameservers
                self._upstreams = tuple(Upstream.parse(str(item)) for item in found)
                self._stamp = stamp
        except (OSError, dns.exception.DNSException) as error:
            log.warning("dns.no_resolvers", path=str(self._path), error=str(error))
        return self._upstreams


def bind(addresses: Iterable[str]) -> list[socket.socket]:
    """UDP and TCP sockets on port 53 of addresses of the thread's namespace."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for address in addresses:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                made = stack.enter_context(socket.socket(socket.AF_INET, kind))
                made.setblocking(False)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((address, PORT))
                if kind == socket.SOCK_STREAM:
                    made.listen(CONNECTIONS)
                sockets.append(made)
        stack.pop_all()
        return sockets


def parse_query(wire: bytes) -> dns.message.Message | None:
    """The query in a packet of a guest, or None for what deserves no answer."""
    if not _HEADER_SIZE <= len(wire) <= LONGEST_QUERY:
        return None
    questions, answers, authorities, others = struct.unpack_from("!4H", wire, 4)
    if questions > 1 or answers or authorities or others > 1:
        return None
    try:
        message = dns.message.from_wire(wire, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, struct.error):
        return None
    return None if message.flags & dns.flags.QR else message


def answer_locally(query: dns.message.Message) -> dns.message.Message | None:
    """The answer to what is not forwarded; None if the query is to be forwarded."""
    reply = dns.message.make_response(query, recursion_available=True, our_payload=UDP_SIZE)
    if query.opcode() != dns.opcode.QUERY:
        reply.set_rcode(dns.rcode.NOTIMP)
    elif len(query.question) != 1:
        reply.set_rcode(dns.rcode.FORMERR)
    elif (
        query.question[0].rdclass != dns.rdataclass.IN or query.question[0].rdtype in _NOT_FORWARDED
    ):
        reply.set_rcode(dns.rcode.REFUSED)
    elif query.question[0].rdtype not in _EMPTY:
        return None
    return reply


def upstream_query(query: dns.message.Message) -> dns.message.Message:
    """The question alone, in a message of our own: nothing else of the guest's goes out."""
    question = query.question[0]
    fresh = dns.message.make_query(
        question.name,
        question.rdtype,
        question.rdclass,
        use_edns=True,
        payload=UDP_SIZE,
        want_dnssec=bool(query.ednsflags & dns.flags.DO),
    )
    fresh.flags |= query.flags & dns.flags.CD
    return fresh


def screen(
    query: dns.message.Message,
    answer: dns.message.Message,
    refused: Refused,
) -> dns.message.Message:
    """What the guest gets of an answer: REFUSED if it holds an address that is `refused`."""
    reply = dns.message.make_response(query, recursion_available=True, our_payload=UDP_SIZE)
    for rrset in (*answer.answer, *answer.additional):
        if rrset.rdtype == dns.rdatatype.A and any(
            refused(ipaddress.IPv4Address(record.address)) for record in rrset
        ):
            reply.set_rcode(dns.rcode.REFUSED)
            return reply
    reply.set_rcode(answer.rcode())
    reply.flags |= answer.flags & (dns.flags.TC | dns.flags.AD)
    reply.answer = [rrset for rrset in answer.answer if rrset.rdtype not in _EMPTY]
    reply.authority = list(answer.authority)
    return reply


def named_query(name: str) -> dns.message.Message:
    """The question for a name's addresses, written as we write it: neither the case of letters nor
    an option carries anything out."""
    return dns.message.make_query(f"{name}.", "A", use_edns=True, payload=UDP_SIZE)


def narrow(
    query: dns.message.Message, answer: dns.message.Message, refused: Refused
) -> tuple[dns.message.Message, dict[ipaddress.IPv4Address, int]]:
    """What the guest gets of an answer that opens addresses, and for how long it has these."""
    reply = dns.message.make_response(query, recursion_available=True, our_payload=UDP_SIZE)
    reply.set_rcode(answer.rcode())
    reply.flags |= answer.flags & dns.flags.TC
    if answer.rcode() != dns.rcode.NOERROR or answer.flags & dns.flags.TC:
        return reply, {}
    try:
        assert isinstance(answer, dns.message.QueryMessage)
        chain = answer.resolve_chaining()
    except dns.exception.DNSException:  # loops, and answers to something else
        reply.set_rcode(dns.rcode.SERVFAIL)
        return reply, {}
    if chain.answer is None:
        return reply, {}
    ttl = min(chain.answer.ttl, LONGEST_TTL)
    kept = list(chain.answer)[:MOST_ADDRESSES]
    addresses = {ipaddress.IPv4Address(record.address): ttl for record in kept}
    if any(map(refused, addresses)):
        reply.set_rcode(dns.rcode.REFUSED)
        return reply, {}
    reply.answer = [
        *(dns.rrset.from_rdata_list(alias.name, ttl, list(alias)) for alias in chain.cnames),
        dns.rrset.from_rdata_list(chain.answer.name, ttl, kept),
    ]
    return reply, addresses


def encode(query: dns.message.Message, reply: dns.message.Message, *, udp: bool) -> bytes:
    """Bytes of a reply, cut to what the guest can take over UDP."""
    if not udp:
        return reply.to_wire(max_size=65535, prefer_truncation=True)
    offered = query.payload if query.edns >= 0 else 512
    return reply.to_wire(max_size=min(max(offered, 512), UDP_SIZE), prefer_truncation=True)


class Forwarder:
    """Asks the resolvers; shared by all guests. Its work is done by tasks of `tasks`."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        upstreams: Callable[[], Sequence[Upstream]],
    ) -> None:
        self.tasks = tasks
        self._upstreams = upstreams
        self._backend = dns.asyncbackend.get_backend("asyncio")

    async def answer(self, wire: bytes, policy: Policy, *, udp: bool) -> bytes | None:
        """The reply to a guest's packet; None if it deserves none."""
        query = parse_query(wire)
        if query is None:
            return None
        reply = answer_locally(query) or await self._decide(query, policy, udp=udp)
        return encode(query, reply, udp=udp)

    async def _decide(
        self, query: dns.message.Message, policy: Policy, *, udp: bool
    ) -> dns.message.Message:
        asked = query.question[0]
        name = normal(asked.name.to_text())
        refused = partial(policy.refuses, name=name)
        if name is not None and asked.rdtype == dns.rdatatype.A and policy.opens(name):
            return await self._open(query, name, policy, udp=udp)
        if policy.any_name:
            answer = await self._ask(upstream_query(query), udp=udp)
            return _failure(query) if answer is None else screen(query, answer, refused)
        return _failure(query, dns.rcode.REFUSED)

    async def _open(
        self, query: dns.message.Message, name: str, policy: Policy, *, udp: bool
    ) -> dns.message.Message:
        answer = await self._ask(named_query(name), udp=udp)
        if answer is None:
            return _failure(query)
        reply, addresses = narrow(query, answer, partial(policy.refuses, name=name))
        if addresses:
            try:
                await policy.pin(name, addresses)
            except (ProcessFailed, ProcessStuck) as error:
                log.warning("dns.not_opened", name=name, error=str(error))
                return _failure(query)
        return reply

    async def _ask(self, question: dns.message.Message, *, udp: bool) -> dns.message.Message | None:
        for upstream in self._upstreams():
            try:
                return await self._exchange(question, upstream, udp=udp)
            except (OSError, EOFError, dns.exception.DNSException) as error:
                log.debug("dns.upstream_failed", upstream=upstream, error=repr(error))
        return None

    async def _exchange(
        self, question: dns.message.Message, upstream: Upstream, *, udp: bool
    ) -> dns.message.Message:
        if not udp:
            async with asyncio.timeout(UPSTREAM_LIMIT):
                return await _exchange_tcp(question, upstream)
        return await dns.asyncquery.udp(
            question,
            upstream.address,
            UPSTREAM_LIMIT,
            upstream.port,
            ignore_unexpected=True,
            ignore_errors=True,  # a forged answer must not end the wait for the true one
            backend=self._backend,
        )


async def _exchange_tcp(question: dns.message.Message, upstream: Upstream) -> dns.message.Message:
    """Ours, since dnspython parses an answer of any length."""
    reader, writer = await asyncio.open_connection(upstream.address, upstream.port)
    try:
        wire = question.to_wire()
        writer.write(struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        if length > LONGEST_ANSWER:
            raise OSError(f"an answer of {length} bytes")
        answer = dns.message.from_wire(await reader.readexactly(length))
    finally:
        writer.close()
    if not question.is_response(answer):
        raise OSError("an answer to something else")
    return answer


def _failure(
    query: dns.message.Message, code: dns.rcode.Rcode = dns.rcode.SERVFAIL
) -> dns.message.Message:
    reply = dns.message.make_response(query, recursion_available=True)
    reply.set_rcode(code)
    return reply


class Stub:
    """Serves the sockets of one guest from its creation until `close`, which also closes them."""

    def __init__(
        self, forwarder: Forwarder, sockets: Sequence[socket.socket], policy: Policy
    ) -> None:
        self._forwarder = forwarder
        self._policy = policy
        self._sockets = tuple(sockets)
        self._queries: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._pace = Pace(RATE, BURST)
        loop = asyncio.get_running_loop()
        for item in self._sockets:
            read = self._accept if item.type == socket.SOCK_STREAM else self._receive
            loop.add_reader(item.fileno(), read, item)

    def close(self) -> None:
        """Stop at once: no answer is sent after this."""
        loop = asyncio.get_running_loop()
        for item in self._sockets:
            loop.remove_reader(item.fileno())
            item.close()
        for task in (*self._queries, *self._connections):
            task.cancel()

    def _receive(self, item: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                wire, peer = item.recvfrom(4096)
            except OSError:  # nothing more, or an ICMP error of an earlier answer
                return
            if self._pace.spend(0, time.monotonic()) > 0:
                continue
            if len(wire) >= _HEADER_SIZE and len(self._queries) < IN_FLIGHT:
                self._own(self._queries, partial(self._reply, item, wire, peer))

    async def _reply(self, item: socket.socket, wire: bytes, peer: tuple[str, int]) -> None:
        answer = await self._forwarder.answer(wire, self._policy, udp=True)
        self._spend(wire, answer)
        if answer is not None:
            with contextlib.suppress(OSError):  # the guest's queue is full or its tap is gone
                item.sendto(answer, peer)

    def _spend(self, wire: bytes, answer: bytes | None) -> float:
        """Seconds to wait before the next query is read."""
        cost = len(wire) + len(answer or b"") + _QUERY_COST
        return self._pace.spend(cost, time.monotonic())

    def _accept(self, item: socket.socket) -> None:
        try:
            connection, _ = item.accept()
        except OSError:
            return
        connection.setblocking(False)
        if len(self._connections) >= CONNECTIONS:
            connection.close()
            return
        task = self._own(self._connections, partial(self._converse, connection))
        task.add_done_callback(lambda _: connection.close())  # also when it never started

    async def _converse(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await self._answer_stream(reader, writer)
        except (OSError, EOFError, TimeoutError):
            return
        finally:
            writer.close()

    async def _answer_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for _ in range(QUERIES_PER_CONNECTION):
            async with asyncio.timeout(CONNECTION_LIMIT):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                if length > LONGEST_QUERY:
                    return
                wire = await reader.readexactly(length)
            answer = await self._forwarder.answer(wire, self._policy, udp=False)
            wait = self._spend(wire, answer)
            if answer is None:
                return
            writer.write(struct.pack("!H", len(answer)) + answer)
            async with asyncio.timeout(CONNECTION_LIMIT):
                await writer.drain()
            await asyncio.sleep(wait)

    def _own(self, tasks: set[asyncio.Task[None]], work: Work) -> asyncio.Task[None]:
        task = self._forwarder.tasks.create_task(_guarded(work), name="dns.query")
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task


async def _guarded(work: Work) -> None:
    """A task's border: one guest's packet must not end the task group of all."""
    try:
        await work()
    except Exception:
        log.exception("dns.query_failed")
