"""What happens to a MicroVM without anybody asking: silence, and the end of its time."""

import pytest

from tests.servicelab import AUTO_RESUME, Image, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]

SHORTEST_IDLE = 60
# The edge's counters are read every few seconds.
IDLE_LIMIT = SHORTEST_IDLE + 30


def test_a_silent_microvm_is_suspended_and_a_request_resumes_it(
    service: Service, notebook: Image
) -> None:
    microvm = service.run(
        notebook, idlePolicy={**AUTO_RESUME, "maxIdleDurationSeconds": SHORTEST_IDLE}
    )
    microvm.execute("kept = 'all the time'")
    microvm.wait("SUSPENDED", IDLE_LIMIT)
    assert microvm.vmm is None
    assert microvm.execute("kept") == "all the time"
    assert microvm.state == "RUNNING"


def test_suspended_for_no_time_at_all(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, idlePolicy={**AUTO_RESUME, "suspendedDurationSeconds": 0})
    service.api.suspend_microvm(microvmIdentifier=microvm.id)
    ended = microvm.wait("TERMINATED")
    assert ended["stateReason"] == "Suspended duration exceeded."


@pytest.mark.parametrize("suspended", [False, True], ids=["running", "suspended"])
def test_the_maximum_duration_ends_it(service: Service, notebook: Image, suspended: bool) -> None:
    microvm = service.run(notebook, maximumDurationInSeconds=6)
    if suspended:
        microvm.suspend()
    ended = microvm.wait("TERMINATED")
    assert ended["stateReason"] == "Maximum duration exceeded."
    assert (ended["terminatedAt"] - ended["startedAt"]).total_seconds() >= 6
    assert microvm.vmm is None
