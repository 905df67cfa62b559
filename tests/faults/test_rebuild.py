"""An update of QEMU while versions and a SUSPENDED MicroVM of the old one are there, cut off twice.

The update is a real one for the service: another program lies in QEMU's place.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from microvmd.model.rebuild import INTERRUPTED
from microvmd.vmm.qemu import QEMU
from tests.faults.conftest import DOCKERFILE
from tests.otherqemu import instead, other_qemu
from tests.servicelab import BUILD_LIMIT, STATE_LIMIT, Image, Microvm, Service
from tests.serviceprocess import until

pytestmark = [pytest.mark.vm, pytest.mark.faults]


@pytest.fixture
def updated(service: Service, tmp_path: Path) -> Iterator[Service]:
    """Its next start finds the other QEMU; the last one finds the machine's again."""
    service.before = instead(QEMU, other_qemu(tmp_path))
    yield service
    if service.process is None:
        service.start()
    service.terminate_all()
    service.stop()
    service.before = ()
    service.start()


@pytest.fixture
def image(service: Service, server: bytes) -> Iterator[Image]:
    """Of the machine's QEMU."""
    files = {"Dockerfile": DOCKERFILE, "server": server}
    made = service.begin_image("updated", files)
    assert service.built(made) == "SUCCESSFUL", service.build(made)
    yield made
    service.terminate_all()
    service.api.delete_microvm_image(imageIdentifier=made.arn)

    def gone() -> bool | None:
        arns = [item["imageArn"] for item in service.api.list_microvm_images()["items"]]
        return None if made.arn in arns else True

    until(gone, STATE_LIMIT, "the image is gone")
    assert not list((service.root / "images").glob("*/updated/*"))


def _builds(service: Service, image: Image) -> list[dict[str, Any]]:
    """Newest first."""
    names = {"imageIdentifier": image.arn, "imageVersion": image.version}
    found: list[dict[str, Any]] = service.api.list_microvm_image_builds(**names)["items"]
    return found


def _begins(service: Service, image: Image, count: int) -> None:
    def ask() -> bool | None:
        found = _builds(service, image)
        return True if len(found) == count and found[0]["buildState"] == "IN_PROGRESS" else None

    until(ask, STATE_LIMIT, f"build {count} is in progress")


def _count(microvm: Microvm) -> int:
    microvm.wait("RUNNING", BUILD_LIMIT)
    return int(microvm.text().split()[1])


def test_an_update_of_qemu(service: Service, image: Image, updated: Service) -> None:
    old = service.run(image)
    assert _count(old) == 1
    old.suspend()
    service.stop()
    service.start()

    first, second = service.run(image, wait=False), service.run(image, wait=False)
    _begins(service, image, 2)
    assert {first.state, second.state} == {"PENDING"}
    service.kill()
    service.start()
    _begins(service, image, 3)
    os.kill(service.node_pid, signal.SIGKILL)
    service.wait_healthy()
    assert [_count(microvm) for microvm in (first, second)] == [1, 1]
    builds = _builds(service, image)
    states = [build["buildState"] for build in builds]
    assert states == ["SUCCESSFUL", "FAILED", "FAILED", "SUCCESSFUL"]
    assert {build["stateReason"] for build in builds[1:3]} == {INTERRUPTED}

    # Its memory is of the old one: nothing can resume it, and it stays as it is.
    assert old.request().status_code == 502
    assert old.state == "SUSPENDED"
    places = {path.name for path in (service.root / "images").glob("*/updated/*")}
    assert places == {"1.0", f"1.0@{builds[0]['buildId']}"}
    service.check_strays()
