"""The examples, from their directory to a resume: nothing in a guest is assumed but a kernel."""

import ssl
from collections.abc import Callable

import pytest
from websockets.sync.client import connect

from tests.pages import built
from tests.servicelab import TOKEN_HEADER, Microvm, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]

LIMIT = 30


def _keeps_its_memory(microvm: Microvm, count: Callable[[Microvm], int]) -> None:
    """Each call of `count` changes the memory of the guest; a request resumes it."""
    assert [count(microvm), count(microvm)] == [1, 2]
    microvm.suspend()
    assert microvm.vmm is None
    assert count(microvm) == 3
    assert microvm.state == "RUNNING"


def test_one_static_binary_from_scratch(service: Service) -> None:
    image = built(service, "static")
    first, second = service.run(image), service.run(image)

    def count(microvm: Microvm) -> int:
        words = microvm.text().split()
        assert words[2:5] == ["of", "process", words[4]]
        return int(words[1])

    _keeps_its_memory(first, count)
    assert count(second) == 1


def test_busybox_with_neither_glibc_nor_bash(service: Service) -> None:
    microvm = service.run(built(service, "alpine-like"))
    assert microvm.text() == "busybox, and nothing else\n"
    _keeps_its_memory(microvm, lambda asked: int(asked.text("/cgi-bin/count")))


def test_a_chat_room_of_node_js(service: Service) -> None:
    microvm = service.run(built(service, "websocket"))
    trust = ssl.create_default_context(cafile=str(service.ca_file))

    def room(asked: Microvm) -> int:
        """One message more from a newcomer, who is told the others first."""
        url, headers = f"wss://{asked.endpoint}/", {TOKEN_HEADER: asked.token}
        number = len(asked.request(path="/history").json()) + 1
        with connect(
            url, ssl=trust, proxy=None, additional_headers=headers, open_timeout=LIMIT
        ) as socket:
            socket.send(f"message {number}")
            heard = [socket.recv(LIMIT) for _ in range(number)]
        assert heard == [f"message {place}" for place in range(1, number + 1)]
        return number

    _keeps_its_memory(microvm, room)
