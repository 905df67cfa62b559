"""The API's listening socket, bound before the server runs so that nobody has to wait for it."""

import ipaddress
import socket


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen on an address; port 0 takes a free one.

    The protocol is named on purpose: asyncio sets TCP_NODELAY only where ``proto`` is IPPROTO_TCP,
    and sockets of ``socket.create_server`` have 0. Without it every answer waits 40 ms for the
    client's delayed acknowledgement, because a server writes headers and body apart.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener
