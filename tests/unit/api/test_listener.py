"""The listening socket: where it is, and that accepted connections answer at once."""

import asyncio
import socket

import pytest

from microvmd.api.listener import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_listens_where_told(host: str) -> None:
    with listen(host, 0) as listener:
        address, port, *_ = listener.getsockname()
        assert (address, listener.proto) == (host, socket.IPPROTO_TCP)
        with socket.create_connection((host, port), timeout=5):
            pass


def test_a_taken_port_is_an_error_and_leaks_nothing() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", first.getsockname()[1])


@pytest.mark.anyio
async def test_connections_do_not_wait_for_acknowledgements() -> None:
    options: asyncio.Queue[int] = asyncio.Queue()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted_socket = writer.get_extra_info("socket")
        options.put_nowait(accepted_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = listen("127.0.0.1", 0)
    async with await asyncio.start_server(accepted, sock=listener):
        with socket.create_connection(listener.getsockname(), timeout=5):
            async with asyncio.timeout(5):
                assert await options.get() != 0
