"""One service for all journeys; after each of them nothing but its images may be left in it."""

from collections.abc import Iterator

import pytest

from tests.otlp import Collector, collector
from tests.servicelab import Image, Service, interpreter, running_service


@pytest.fixture(scope="session")
def traces() -> Iterator[Collector]:
    """Takes the traces of all journeys."""
    with collector() as made:
        yield made


@pytest.fixture(scope="session")
def journeys(residents: list[object], traces: Collector) -> Iterator[Service]:
    with running_service({"TRACES_ENDPOINT": traces.url}) as service:
        residents.append(service)
        yield service
        residents.remove(service)


@pytest.fixture
def service(journeys: Service) -> Iterator[Service]:
    yield journeys
    journeys.terminate_all()
    journeys.check_strays()


@pytest.fixture
def notebook(service: Service) -> Image:
    """examples/interpreter: a MicroVM of it runs the Python code that a test sends."""
    return interpreter(service)
