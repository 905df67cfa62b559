"""Guests that may reach names: servers on the internet that tell what they got, ClientHellos."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Network

from microvmd.model.egress import NAMED_PORTS, Egress, PortRange, Protocol, Reach
from microvmd.node.commands import ip
from tests import netlab
from tests.networld import World

ALLOWED, CDN, OTHER = "198.51.100.7", "198.51.100.8", "198.51.100.9"
RECORDS: netlab.Records = {
    "allowed.test.": ALLOWED,
    "sub.wild.test.": ALLOWED,
    "other.test.": OTHER,
    "cdn.test.": [
        "cdn.test. 0 CNAME edge.cdn.example.",
        f"edge.cdn.example. 0 A {CDN}",
    ],
    "private.test.": netlab.PRIVATE,
    "zero.test.": "0.0.0.0",
    "meta.test.": ["meta.test. 5 CNAME x.", f"x. 5 A {netlab.METADATA}"],
    "loop.test.": ["loop.test. 5 CNAME loop.test."],
    "many.test.": [f"many.test. 5 A 203.0.113.{last}" for last in range(1, 200)],
    "long.test.": f"{ALLOWED}",
}
NAMES = (
    "*.wild.test",
    "allowed.test",
    "cdn.test",
    "loop.test",
    "many.test",
    "meta.test",
    "private.test",
    "zero.test",
)
GRANT = "nc-1:1"


def by_name(
    *names: str,
    network: str = "0.0.0.0/0",
    ports: tuple[PortRange, ...] = NAMED_PORTS,
    grant: str = GRANT,
) -> Reach:
    return Reach(grant, IPv4Network(network), Protocol.TCP, ports, names)


def only_names(*names: str) -> Egress:
    return Egress(reaches=(by_name(*(names or NAMES)),))


def hello(name: str | None) -> bytes:
    """The first bytes of a TLS client that wants this name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def get(host: str, target: str = "/") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@contextlib.contextmanager
def serving(listener: socket.socket, port: int) -> Iterator[list[tuple[str, bytes]]]:
    """Answers the first bytes of each connection; yields who was meant, and what came."""
    got: list[tuple[str, bytes]] = []
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(16)
        listener.settimeout(None)
        thread = threading.Thread(target=_serve, args=(listener, got), daemon=False)
        thread.start()
        try:
            yield got
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)


def _serve(listener: socket.socket, got: list[tuple[str, bytes]]) -> None:
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.settimeout(None)
            thread = threading.Thread(target=_answer, args=(connection, got), daemon=False)
            thread.start()
            stack.callback(thread.join, 20)
            stack.callback(_hang_up, connection)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _answer(connection: socket.socket, got: list[tuple[str, bytes]]) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(16384):
            got.append((connection.getsockname()[0], data))
            connection.sendall(ANSWER)


async def until(condition: Callable[[], bool], limit: float = 10) -> None:
    """Wait, so many seconds at most, for what another thread or process does."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def servers(world: World) -> AsyncIterator[list[tuple[str, bytes]]]:
    """Ports 80 and 443 of every address of the internet's namespace."""
    for address in (CDN, OTHER):
        await ip([f"address add {address}/24 dev eth0"], world.internet.path)
    with (
        serving(await world.internet.socket(), 443) as got,
        serving(await world.internet.socket(), 80) as plain,
    ):
        yield got
        got.extend(plain)


async def answered(world: World, address: str, port: int, *pieces: bytes) -> bool:
    """Whether the guest is answered by the server when it sends this there."""
    client = await world.guest.socket()
    return await asyncio.to_thread(_answered, client, (address, port), pieces)


def _answered(client: socket.socket, address: tuple[str, int], pieces: tuple[bytes, ...]) -> bool:
    with client:
        client.settimeout(5)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            client.connect(address)
            for piece in pieces:
                client.sendall(piece)
            return client.recv(1000).endswith(b"hello")
        except OSError:
            return False
