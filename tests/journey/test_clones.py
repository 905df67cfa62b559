"""MicroVMs of one snapshot are different machines: randomness, names, and the time of day."""

import time

import pytest

from tests.servicelab import Image, Microvm, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]

# Seconds by which a restored guest's clock may differ from the host's.
CLOCK = 0.05
IDENTITY = """
import os, socket, ssl, uuid
def read(path):
    with open(path) as file:
        return file.read().strip()
identity = {
    'hostname': socket.gethostname(),
    'machine-id': read('/etc/machine-id'),
    'boot-id': read('/proc/sys/kernel/random/boot_id'),
}
identity
"""
RANDOM = """
{
    'os': os.urandom(32).hex(),
    'kernel': read('/proc/sys/kernel/random/uuid'),
    'openssl': ssl.RAND_bytes(32).hex(),
    'uuid': uuid.uuid4().hex,
}
"""


def test_clones_are_different_machines(service: Service, notebook: Image) -> None:
    clones = [service.run(notebook) for _ in range(3)]
    identities = [clone.execute(IDENTITY) for clone in clones]
    draws = [clone.execute(RANDOM) for clone in clones]
    for kind in identities[0]:
        assert len({identity[kind] for identity in identities}) == len(clones), (kind, identities)
    for kind in draws[0]:
        assert len({draw[kind] for draw in draws}) == len(clones), (kind, draws)
    for clone, identity in zip(clones, identities, strict=True):
        assert identity["hostname"] == clone.id
        assert identity["machine-id"] == clone.id.removeprefix("microvm-").replace("-", "")


def test_a_guest_counts_no_ticks(service: Service, notebook: Image) -> None:
    """It would lose time on a busy node, and be woken 250 times a second to do nothing."""
    source = "open('/sys/devices/system/clocksource/clocksource0/current_clocksource').read()"
    assert service.run(notebook).execute(source).strip() in {"tsc", "kvm-clock"}


def test_a_resume_keeps_the_machine_but_not_its_randomness(
    service: Service, notebook: Image
) -> None:
    microvm = service.run(notebook)
    before = microvm.execute(IDENTITY)
    drawn = microvm.execute(RANDOM)
    microvm.suspend()
    after = microvm.execute(IDENTITY)
    assert {**after, "boot-id": ""} == {**before, "boot-id": ""}
    again = microvm.execute(RANDOM)
    assert all(again[kind] != drawn[kind] for kind in drawn)


def test_the_clock_is_right_after_a_restore(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook)
    assert _clock_error(microvm) < CLOCK
    microvm.suspend()
    microvm.resume()
    assert _clock_error(microvm) < CLOCK


def _clock_error(microvm: Microvm) -> float:
    """By how much the guest's clock must be wrong: a right one is between request and answer."""
    errors: list[float] = []
    for _ in range(5):
        before = time.time()
        guest: float = microvm.execute("import time\ntime.time()")
        after = time.time()
        errors.append(max(before - guest, guest - after, 0.0))
    return min(errors)
