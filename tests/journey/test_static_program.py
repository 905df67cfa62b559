"""The least that can be an image: a zip with a Dockerfile on `scratch` and one static program.

Needs no base image and no network, so it also runs within the KVM host (`tests/kvm`), there under
Firecracker.
"""

import subprocess
from pathlib import Path

import pytest

from tests.nodelab import PROGRAM
from tests.servicelab import ALL_HOOKS, Image, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]

DOCKERFILE = b'FROM scratch\nCOPY app /app\nENTRYPOINT ["/app"]\n'
MEMORY_MIB = 512


@pytest.fixture
def static(service: Service, tmp_path: Path) -> Image:
    program = tmp_path / "app"
    subprocess.run(["gcc", "-O1", "-static", "-o", program, PROGRAM], check=True, timeout=60)
    files = {"Dockerfile": DOCKERFILE, "app": program.read_bytes()}
    resources = [{"minimumMemoryInMiB": MEMORY_MIB}]
    return service.image("static", files, hooks=ALL_HOOKS, resources=resources)


def test_from_a_zip_to_the_end(service: Service, static: Image) -> None:
    """Zip, image, MicroVM, HTTPS with a token, suspend, resume by a request, terminate."""
    microvm = service.run(static, runHookPayload="begin")
    assert microvm.text("/count") == "1"
    assert microvm.request(path="/count", token="no such token").status_code == 403
    assert microvm.text("/put/kept") == "ok"

    microvm.suspend()
    assert microvm.vmm is None
    # The request itself wakes it, in the middle of its program and with its disk.
    assert microvm.text("/count") == "2"
    assert microvm.get()["state"] == "RUNNING"
    assert microvm.text("/get") == "kept"
    hooks = [line.split()[0] for line in microvm.text("/hooks").splitlines()]
    assert hooks == ["ready", "ready", "run", "suspend", "resume"]

    ended = microvm.terminate()
    assert ended["state"] == "TERMINATED"
    assert microvm.vmm is None
    assert microvm.request(path="/count").status_code == 502
