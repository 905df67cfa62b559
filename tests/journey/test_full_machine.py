"""A machine without room starts nothing, says so, and goes on where it was when there is room.

"Full" is a reserve that is larger than the machine: what is measured is real.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from microvmd.model.capacity import NO_ROOM
from tests.checkout import CHECKOUT
from tests.servicelab import Image, Microvm, Service, folder

pytestmark = [pytest.mark.vm, pytest.mark.journey]

BEYOND_ANY_MIB = str(1 << 31)


@pytest.fixture
def full(service: Service) -> Iterator[Callable[[str], None]]:
    """Restarts the service with a limit that no machine meets, and at the end without."""

    def restart(setting: str) -> None:
        service.stop()
        service.extra[setting] = BEYOND_ANY_MIB
        service.start()

    yield restart
    if BEYOND_ANY_MIB in service.extra.values():
        _with_room(service)


def _with_room(service: Service) -> None:
    if service.process is not None:
        service.stop()
    # What all journeys have stays.
    service.extra = {name: one for name, one in service.extra.items() if one != BEYOND_ANY_MIB}
    service.start()


def _refused(call: Callable[..., object], code: str, **request: object) -> None:
    with pytest.raises(ClientError) as refused:
        call(**request)
    answer = refused.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert answer["Error"]["Code"] == code
    assert answer["Error"]["Message"] == NO_ROOM


@pytest.mark.parametrize("setting", ["LIMITS_RESERVE_MIB", "LIMITS_DISK_MIB"])
def test_run_and_resume(
    service: Service, notebook: Image, full: Callable[[str], None], setting: str
) -> None:
    running, sleeping = service.run(notebook), service.run(notebook)
    sleeping.execute("kept = 'all the time'")
    sleeping.suspend()
    full(setting)

    said = subprocess.run(
        [Path(sys.executable).parent / "microvmd", "limits", "--json"],
        env=service.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    machine = json.loads(said.stdout)["machine"]
    assert machine["microvms"] == 1
    assert (machine["left_mib"] == 0) == (setting == "LIMITS_RESERVE_MIB")

    before = (service.states(), service.vmms(), set(service.networks()))
    assert before[1].keys() == {running.id}
    _refused(service.api.run_microvm, "InsufficientCapacityException", imageIdentifier=notebook.arn)
    _refused(service.api.resume_microvm, "InternalServerException", microvmIdentifier=sleeping.id)
    answer = sleeping.request()
    assert (answer.status_code, answer.content) == (502, b"")
    assert sleeping.state == "SUSPENDED"
    assert running.execute("1 + 1") == 2, "what runs goes on"
    assert before == (service.states(), service.vmms(), set(service.networks()))

    _with_room(service)
    assert sleeping.execute("kept") == "all the time"
    assert isinstance(service.run(notebook), Microvm)


def test_build(service: Service, full: Callable[[str], None]) -> None:
    full("LIMITS_RESERVE_MIB")
    files = folder(CHECKOUT / "examples" / "interpreter")
    image = service.begin_image("no-room", files)
    assert service.built(image) == "FAILED"
    assert service.build(image)["stateReason"] == f"INTERNAL_PLATFORM_ERROR: {NO_ROOM}"
    assert service.api.get_microvm_image(imageIdentifier=image.arn)["state"] == "CREATE_FAILED"
    assert not service.vmms()
    service.api.delete_microvm_image(imageIdentifier=image.arn)
