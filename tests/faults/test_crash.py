"""kill -9 of the service, of a VMM and of HAProxy, at known and at random moments.

A crash of the service ends no RUNNING MicroVM and loses no SUSPENDED one; what it was doing is
finished or taken back by the next start; nothing of it is left that no record owns.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import botocore.exceptions
import httpx
import pytest

from tests.holdings import WAITING
from tests.servicelab import STATE_LIMIT, Image, Microvm, Service
from tests.serviceprocess import until

pytestmark = [pytest.mark.vm, pytest.mark.faults]

INTERRUPTED = "INTERNAL_PLATFORM_ERROR: The build was interrupted by a restart. Build again."
SETTLED = {"RUNNING", "SUSPENDED", "TERMINATED"}
ENDS = 6
LATEST_END = 2.5
"""Seconds: about the length of a cycle of run, suspend, resume and terminate."""
SLEEPING = b"FROM microvmd/python:3\nRUN sleep 4711\n"


def _count(microvm: Microvm) -> int:
    """`request N of process P`: the application's state."""
    return int(microvm.text().split()[1])


def test_a_running_microvm_answers_while_the_service_is_dead(
    service: Service, counter: Image
) -> None:
    microvm = service.run(counter)
    assert _count(microvm) == 1
    vmm, haproxy = microvm.vmm, set(service.haproxy())
    service.kill()
    assert _count(microvm) == 2
    service.start()
    # Adopted, not started again: the same VMM, and the edge has not changed hands either.
    assert microvm.state == "RUNNING"
    assert _count(microvm) == 3
    assert microvm.vmm == vmm
    assert haproxy <= set(service.haproxy())
    microvm.suspend()
    assert _count(microvm) == 4
    service.check_strays()


def test_kill_of_the_node_alone(service: Service, counter: Image) -> None:
    """It is started again beside the service, and holds what it held; what is asked for meanwhile
    is done then."""
    running, suspended = service.run(counter), service.run(counter)
    assert (_count(running), _count(suspended)) == (1, 1)
    suspended.suspend()
    vmm, node, serving = running.vmm, service.node_pid, service.process
    assert serving is not None
    os.kill(node, signal.SIGKILL)
    assert _count(running) == 2, "no node stands in the way of a request"
    late = service.run(counter, wait=False)
    service.wait_healthy()
    late.wait("RUNNING")
    assert _count(late) == 1
    assert (service.process, serving.poll()) == (serving, None)
    assert service.node_pid != node
    assert (running.state, running.vmm) == ("RUNNING", vmm)
    assert (_count(running), _count(suspended)) == (3, 2)
    running.suspend()
    assert _count(running) == 4
    service.check_strays()


def test_what_waits_for_a_run_ends_with_a_killed_node(service: Service, counter: Image) -> None:
    first = service.run(counter)

    def waiting() -> dict[str, int] | None:
        found = service.vmms().items()
        return {name: pid for name, pid in found if name.startswith(WAITING)} or None

    before = until(waiting, STATE_LIMIT, "a VMM waits")
    os.kill(service.node_pid, signal.SIGKILL)
    service.wait_healthy()
    until(lambda: None if before.keys() & service.vmms().keys() else True, STATE_LIMIT, "swept")
    assert not before.keys() & {path.name for path in (service.root / "tmp").iterdir()}
    second = service.run(counter)
    until(waiting, STATE_LIMIT, "the next node has one too")
    third = service.run(counter)
    vmms = [microvm.vmm for microvm in (first, second, third)]
    assert len({*vmms}) == 3
    assert not {*vmms} & {*before.values()}
    assert [_count(microvm) for microvm in (first, second, third)] == [1, 1, 1]
    service.check_strays()


def test_kill_of_node_and_service(service: Service, counter: Image) -> None:
    microvm = service.run(counter)
    assert _count(microvm) == 1
    vmm, nodes = microvm.vmm, list(service.node())
    for pid in nodes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    service.kill()
    assert _count(microvm) == 2
    service.start()
    assert (microvm.state, microvm.vmm) == ("RUNNING", vmm)
    assert _count(microvm) == 3
    microvm.suspend()
    assert _count(microvm) == 4


def test_a_start_that_a_crash_cuts_off_begins_anew(service: Service, counter: Image) -> None:
    microvm = service.run(counter, wait=False)
    service.kill()
    service.start()
    microvm.wait("RUNNING")
    assert _count(microvm) == 1
    service.check_strays()


def test_a_service_that_is_killed_takes_its_node_along(service: Service, counter: Image) -> None:
    microvm = service.run(counter)
    vmm = microvm.vmm
    service.kill()
    until(lambda: None if service.node() else True, 60, "node and keeper have ended")
    assert service.vmms().get(microvm.id) == vmm
    service.start()
    assert _count(microvm) == 1


def test_a_suspended_microvm_survives(service: Service, counter: Image) -> None:
    microvm = service.run(counter)
    assert _count(microvm) == 1
    microvm.suspend()
    service.kill()
    service.start()
    assert microvm.state == "SUSPENDED"
    assert _count(microvm) == 2


def test_a_polite_end_detaches_what_runs(service: Service, counter: Image) -> None:
    microvm = service.run(counter)
    assert _count(microvm) == 1
    vmm = microvm.vmm
    service.stop()
    assert _count(microvm) == 2
    service.start()
    assert microvm.state == "RUNNING"
    assert microvm.vmm == vmm
    assert _count(microvm) == 3
    microvm.terminate()


def test_a_resume_that_was_asked_for_before_the_crash(service: Service, counter: Image) -> None:
    """The request is held by HAProxy, which lives on, until the service is back or time is up."""
    microvm = service.run(counter)
    assert _count(microvm) == 1
    microvm.suspend()
    service.kill()
    # Refused or held, never an answer of another or of a younger application.
    with _in_background(service.start), suppress(httpx.HTTPError):
        answer = microvm.request()
        assert answer.status_code == 502 or answer.text.startswith("request 2 ")
    assert _count(microvm) in (2, 3)


@contextmanager
def _in_background(work: Callable[[], None]) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # shown in the test's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(180)
    assert not thread.is_alive()
    assert not failures, failures


def test_a_build_in_its_dockerfile(service: Service) -> None:
    image = service.begin_image("sleeper", {"Dockerfile": SLEEPING})

    def sleeping() -> bool | None:
        lines = service.processes().values()
        return True if any(line == "sleep 4711" for line in lines) else None

    until(sleeping, 120, "the RUN step sleeps")
    service.kill()
    service.start()
    assert service.built(image, 10) == "FAILED"
    assert service.build(image)["stateReason"] == INTERRUPTED
    service.check_strays()
    # The layer store of the account is in order: the next build is as good as the first.
    again = service.begin_image("after-crash", {"Dockerfile": b"FROM microvmd/python:3\nRUN :\n"})
    assert service.built(again) == "FAILED", "an image without CMD has nothing to run"


def test_a_build_that_boots_its_application(service: Service, server: bytes) -> None:
    dockerfile = b'FROM scratch\nCOPY server /server\nLABEL crash="1"\nENTRYPOINT ["/server"]\n'
    image = service.begin_image("booter", {"Dockerfile": dockerfile, "server": server})
    until(
        lambda: True if any(name.startswith("boot-") for name in service.vmms()) else None,
        120,
        "the build's VMM runs",
    )
    service.kill()
    service.start()
    assert service.built(image, 10) == "FAILED"
    assert service.build(image)["stateReason"] == INTERRUPTED
    service.check_strays()


def test_kill_of_a_vmm(service: Service, counter: Image) -> None:
    microvm = service.run(counter)
    token = microvm.token
    vmm = microvm.vmm
    assert vmm is not None
    os.kill(vmm, signal.SIGKILL)
    ended = microvm.wait("TERMINATED")
    assert "VMM ended unexpectedly" in ended["stateReason"]
    answer = microvm.request(token=token)
    assert (answer.status_code, answer.content) == (502, b"")


def test_kill_of_a_vmm_while_the_service_is_dead(service: Service, counter: Image) -> None:
    microvm = service.run(counter)
    vmm = microvm.vmm
    assert vmm is not None
    service.kill()
    os.kill(vmm, signal.SIGKILL)
    service.start()
    ended = microvm.wait("TERMINATED")
    assert "ended while the service was down" in ended["stateReason"]


def test_kill_of_haproxy(service: Service, counter: Image) -> None:
    microvm = service.run(counter)
    assert _count(microvm) == 1
    before = set(service.haproxy())
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    def answers() -> int | None:
        with suppress(httpx.HTTPError):
            answer = microvm.request()
            if answer.status_code == 200:
                return int(answer.text.split()[1])
        return None

    assert until(answers, 30, "the edge is back") == 2
    assert not before & set(service.haproxy())


def test_kill_of_haproxy_and_the_service(service: Service, counter: Image) -> None:
    """The routes were in HAProxy's memory; the new one gets them from the record."""
    microvm = service.run(counter)
    assert _count(microvm) == 1
    service.kill()
    for pid in service.haproxy():
        os.kill(pid, signal.SIGKILL)
    service.start()
    assert _count(microvm) == 2


@pytest.mark.parametrize("end", [Service.kill, Service.stop], ids=["kill", "stop"])
def test_ends_at_random_moments(
    service: Service, counter: Image, end: Callable[[Service], None]
) -> None:
    kept = service.run(counter)
    counted = _count(kept)
    for _ in range(ENDS):
        moment = random.uniform(0, LATEST_END)
        with _in_background(lambda: _cycle(service, counter)):
            threading.Event().wait(moment)
            end(service)
        service.start()
        _settle(service)
        service.check_strays()
        counted += 1
        assert _count(kept) == counted, f"ended after {moment:.3f} s"
        _use(service, kept)


def _cycle(service: Service, image: Image) -> None:
    """Run, suspend, resume, terminate, until the service ends under it."""
    with suppress(botocore.exceptions.BotoCoreError, httpx.HTTPError, AssertionError):
        for _ in range(10):
            microvm = service.run(image)
            microvm.request()
            microvm.suspend()
            microvm.resume()
            microvm.terminate()


def _settle(service: Service) -> None:
    def settled() -> bool | None:
        return True if set(service.states().values()) <= SETTLED else None

    until(settled, STATE_LIMIT, f"no MicroVM is on its way: {service.states()}")


def _use(service: Service, kept: Microvm) -> None:
    """Whatever the crash left alive works: it answers, is suspended, and is ended."""
    for name, state in service.states().items():
        if state == "TERMINATED" or name == kept.id:
            continue
        endpoint = service.api.get_microvm(microvmIdentifier=name)["endpoint"]
        microvm = Microvm(service, name, endpoint)
        assert _count(microvm) >= 1
        microvm.wait("RUNNING")
        microvm.suspend()
        microvm.terminate()
