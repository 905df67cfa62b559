"""WebSockets through the edge: a verified certificate, and the token where browsers can put it."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import websockets.exceptions
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.checkout import CHECKOUT
from tests.servicelab import PORT_HEADER, TOKEN_HEADER, Image, Microvm, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]

ECHO = CHECKOUT / "tests" / "apps" / "echo.py"
PORT = 8081
MARK = "lambda-microvms"
LIMIT = 30


@pytest.fixture
def echo(service: Service, notebook: Image) -> Microvm:
    """A MicroVM with a WebSocket server on a loopback port beside its application."""
    microvm = service.run(notebook)
    microvm.execute(ECHO.read_text())
    return microvm


@contextmanager
def _connected(microvm: Microvm, **options: Any) -> Iterator[ClientConnection]:
    trust = ssl.create_default_context(cafile=str(microvm.service.ca_file))
    url = f"wss://{microvm.endpoint}/socket"
    with connect(url, ssl=trust, proxy=None, open_timeout=LIMIT, **options) as socket:
        yield socket


def _protocols(microvm: Microvm, *more: str) -> list[Subprotocol]:
    names = [
        MARK,
        f"{MARK}.authentication.{microvm.token}",
        f"{MARK}.port.{PORT}",
        *more,
    ]
    return [Subprotocol(name) for name in names]


def test_a_token_in_a_header(echo: Microvm) -> None:
    headers = {TOKEN_HEADER: echo.token, PORT_HEADER: str(PORT)}
    with _connected(echo, additional_headers=headers) as socket:
        assert socket.recv(LIMIT) == ""
        socket.send("hello")
        assert socket.recv(LIMIT) == "hello"
        socket.send(bytes(range(256)) * 100)
        assert socket.recv(LIMIT) == bytes(range(256)) * 100


def test_a_token_as_a_subprotocol(echo: Microvm) -> None:
    """A page in a browser can set no header."""
    with _connected(echo, subprotocols=_protocols(echo)) as socket:
        assert socket.subprotocol == MARK
        assert socket.recv(LIMIT) == "", "the application must not see the token"
        socket.send("hello")
        assert socket.recv(LIMIT) == "hello"


def test_the_application_chooses_among_its_own(echo: Microvm) -> None:
    with _connected(echo, subprotocols=_protocols(echo, "chat")) as socket:
        assert socket.subprotocol == "chat"
        assert socket.recv(LIMIT) == "chat"


def test_no_token_no_socket(echo: Microvm) -> None:
    with (
        pytest.raises(websockets.exceptions.InvalidStatus) as refused,
        _connected(echo, additional_headers={PORT_HEADER: str(PORT)}),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_a_certificate_of_nobody_is_refused(echo: Microvm) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(f"wss://{echo.endpoint}/", ssl=ssl.create_default_context(), proxy=None)


def test_a_connection_resumes_the_server_too(echo: Microvm) -> None:
    """The server that was started before the suspend goes on."""
    echo.suspend()
    with _connected(echo, subprotocols=_protocols(echo)) as socket:
        assert socket.recv(LIMIT) == ""
        socket.send("awake")
        assert socket.recv(LIMIT) == "awake"


def test_a_connection_outlives_the_service(echo: Microvm) -> None:
    """It is adopted by the next one, and what was open to it stays open."""
    with _connected(echo, subprotocols=_protocols(echo)) as socket:
        assert socket.recv(LIMIT) == ""
        for end in (Service.kill, Service.stop):
            end(echo.service)
            socket.send("alone")
            assert socket.recv(LIMIT) == "alone"
            echo.service.start()
            # Asking for its memory takes the node that has adopted it.
            assert echo.execute("1 + 1") == 2
            assert echo.service.facts(echo.id)["vmm"]["pid"] == echo.vmm
            socket.send("adopted")
            assert socket.recv(LIMIT) == "adopted"
