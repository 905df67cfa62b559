"""What a suspend cuts: connections end with ECONNABORTED at the resume, and nothing else does."""

import pytest

from tests.servicelab import Image, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]

# The guest's DNS stub takes TCP too, and nothing outside is needed for it.
OPEN = """
import errno, socket, threading
outside = socket.create_connection(('172.16.0.1', 53), 10)
outside.settimeout(60)
listener = socket.create_server(('127.0.0.1', 0))
inside = socket.create_connection(listener.getsockname())
accepted, _ = listener.accept()
unix, other = socket.socketpair()
waiting = []
def wait():
    try:
        waiting.append(outside.recv(1))
    except OSError as error:
        waiting.append(errno.errorcode[error.errno])
reader = threading.Thread(target=wait)
reader.start()
"""
USE = """
reader.join(30)
accepted.sendall(b'x')
other.sendall(b'y')
{'outside': waiting, 'inside': inside.recv(1).decode(), 'unix': unix.recv(1).decode(),
 'again': bool(socket.create_connection(('172.16.0.1', 53), 10))}
"""


def test_only_connections_that_lead_outside_end(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook)
    microvm.execute(OPEN)
    microvm.suspend()
    microvm.resume()
    assert microvm.execute(USE) == {
        "outside": ["ECONNABORTED"],
        "inside": "x",
        "unix": "y",
        "again": True,
    }
