"""What a guest reaches: public addresses and names; not the host, its neighbours or metadata.

The internet of this test is a namespace beside the guest's, which also owns a private address and
the metadata address: the guest's refusals are its own network's, not a missing server's.
"""

import asyncio
import ipaddress
import json
import socket
import subprocess
from pathlib import Path

import pytest

from microvmd.node.namespace import Visitor
from tests import netlab
from tests.servicelab import Image, Microvm, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey, pytest.mark.root]

PORT = 7007
GATEWAY = "172.16.0.1"
REACHES = """
import socket
from concurrent.futures import ThreadPoolExecutor
def reached(address, port):
    try:
        with socket.create_connection((address, port), 2) as connection:
            return connection.recv(100) == b'hello'
    except OSError:
        return False
def reaches(port, addresses):
    with ThreadPoolExecutor(32) as pool:
        found = pool.map(lambda address: reached(address, port), addresses)
        return [address for address, yes in zip(addresses, found) if yes]
"""
ASK_DNS = """
import socket, struct
query = struct.pack('!6H', 4711, 0x100, 1, 0, 0, 0)
query += b'\\x07example\\x00' + struct.pack('!2H', 1, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(20)
    client.sendto(query, ('172.16.0.1', 53))
    answer = client.recv(512)
(struct.unpack('!H', answer[:2])[0], answer[2] >> 7)
"""


def _host_addresses() -> list[str]:
    """All of the root namespace, the ends of the MicroVMs' own links among them."""
    argv = ["ip", "-json", "-4", "address", "show"]
    shown = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    found = [item["local"] for link in shown for item in link["addr_info"]]
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


def _reaches(microvm: Microvm, *addresses: str, port: int = PORT) -> list[str]:
    found: list[str] = microvm.execute(f"reaches({port}, {addresses!r})")
    return found


def test_what_a_guest_reaches(service: Service, notebook: Image, tmp_path: Path) -> None:
    microvm = service.run(notebook)
    neighbour = service.run(notebook)
    microvm.execute(REACHES)

    async def main() -> None:
        with Visitor() as visitor:
            async with netlab.internet(visitor, tmp_path / "internet") as internet:
                with (
                    netlab.echo(await internet.socket(), ("0.0.0.0", PORT)),
                    netlab.echo(socket.socket(), ("0.0.0.0", PORT)),
                ):
                    await asyncio.to_thread(_check, microvm, neighbour)

    asyncio.run(main())


def _check(microvm: Microvm, neighbour: Microvm) -> None:
    assert _reaches(microvm, netlab.INTERNET) == [netlab.INTERNET]
    host = _host_addresses()
    assert netlab.HOST_PUBLIC in host
    assert _reaches(microvm, *host, GATEWAY) == []
    assert _reaches(microvm, netlab.PRIVATE, netlab.METADATA) == []
    # The neighbour's application listens on all its addresses; so does the service's API.
    other = microvm.service.facts(neighbour.id)["address"]
    assert _reaches(microvm, other, port=8080) == []
    assert _reaches(microvm, *host, GATEWAY, port=microvm.service.api_port) == []


def test_names_are_answered(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook)
    assert microvm.execute(ASK_DNS) == (4711, 1)
