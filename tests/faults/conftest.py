"""One service for all crashes: each test leaves it healthy, and nothing but its images in it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import CHECKOUT
from tests.servicelab import Image, Service, running_service

SERVER = CHECKOUT / "examples" / "static" / "server.c"
DOCKERFILE = b"""FROM scratch
COPY server /server
EXPOSE 8080
USER 1000:1000
ENTRYPOINT ["/server"]
"""


@pytest.fixture(scope="session")
def crashing(residents: list[object]) -> Iterator[Service]:
    with running_service({"POOL_MEMORY_MIB": "128"}) as service:
        residents.append(service)
        yield service
        residents.remove(service)


@pytest.fixture
def service(crashing: Service) -> Iterator[Service]:
    yield crashing
    if crashing.process is None:
        crashing.start()
    crashing.terminate_all()
    crashing.check_strays()


@pytest.fixture
def counter(service: Service, server: bytes) -> Image:
    """examples/static: an application that counts its requests."""
    return service.image("counter", {"Dockerfile": DOCKERFILE, "server": server})


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Made here instead of in the Dockerfile, which would install a compiler first."""
    program: Path = tmp_path_factory.mktemp("server") / "server"
    subprocess.run(["gcc", "-static", "-O2", "-o", str(program), str(SERVER)], check=True)
    return program.read_bytes()
