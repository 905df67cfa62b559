"""A machine with KVM for the tests in this folder, one for all of them."""

from collections.abc import Iterator

import pytest

from tests.kvmhost.machine import KvmHost
from tests.kvmhost.machine import kvm_host as running_host
from tests.kvmhost.sending import send


@pytest.fixture(scope="session")
def kvm_host() -> Iterator[KvmHost]:
    """Runs from the first test that asks for it on, with this checkout at `/checkout`."""
    with running_host() as host:
        send(host)
        yield host
