"""A machine with KVM for the tests in this folder, one for all of them."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.kvmhost.machine import HostPanicked, KvmHost, kvm_host
from tests.kvmhost.sending import send
from tests.leaks import Resident

T = TypeVar("T")


class KvmHosts:
    """A host from the first work in it on, with this checkout at `/checkout`. A resident."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._host: KvmHost | None = None

    def do(self, work: Callable[[KvmHost], T]) -> T:
        """``work`` in the host, or in a fresh one when its Linux panics: once.

        Seen in one of some forty runs: QEMU emulates a processor that virtualises, on two threads,
        and the host's own Linux then faults without end, at its own per-CPU data. A second panic
        fails the test.
        """
        try:
            return work(self._running())
        except HostPanicked as panicked:
            sys.stdout.write(f"the KVM host is made anew: {panicked}\n")
            self.close()
            return work(self._running())

    def owns(self, interface: str) -> bool:
        return False

    def lasting(self) -> set[int]:
        return set() if self._host is None else {self._host.pid}

    @property
    def group(self) -> str:
        return ""

    def close(self) -> None:
        self._host = None
        self._stack.close()

    def _running(self) -> KvmHost:
        if self._host is None:
            host = self._stack.enter_context(kvm_host())
            send(host)
            self._host = host
        return self._host


@pytest.fixture(scope="session")
def kvm_hosts(residents: list[Resident]) -> Iterator[KvmHosts]:
    with contextlib.closing(KvmHosts()) as hosts:
        residents.append(hosts)
        yield hosts
        residents.remove(hosts)
