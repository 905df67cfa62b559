"""Encrypted images and MicroVMs in a real service, whose KMS is the local one; and its kill -9.

Everything is asked for as an AWS client does.
"""

import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from microvmd.node.sparse import blocks
from tests.buildlab import CACHE
from tests.faults.conftest import DOCKERFILE
from tests.servicelab import Image, Microvm, Service
from tests.serviceprocess import ACCOUNT, until

pytestmark = [pytest.mark.vm, pytest.mark.faults]

SECRET = f"hidden-{secrets.token_hex(16)}"
MADE = time.time() - 1
"""Files that have not changed since cannot hold it. Times of files lag behind the clock."""
ROLE = f"arn:aws:iam::{ACCOUNT}:role/run"


def _holds(path: Path) -> bool:
    """Whether a file holds the secret, also across its blocks; holes are not read."""
    end, tail = 0, b""
    with path.open("rb") as file:
        for offset, block in blocks(file.fileno()):
            if SECRET.encode() in (tail + block if offset == end else block):
                return True
            end, tail = offset + len(block), block[-len(SECRET) :]
    return False


def _plain_on_disk(service: Service) -> list[Path]:
    """Files that hold the secret: under the root, and where builds keep layers."""
    places = [service.root, CACHE / "layers" / ACCOUNT]
    found = []
    for path in (path for place in places for path in place.rglob("*")):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_ctime >= MADE and _holds(path):
                found.append(path)
    return found


@pytest.fixture(scope="module")
def key(crashing: Service) -> str:
    return str(crashing.client("kms").create_key()["KeyMetadata"]["Arn"])


@pytest.fixture
def enabled(service: Service, key: str) -> Iterator[None]:
    """The key can be used again after the test."""
    yield
    service.client("kms").enable_key(KeyId=key.rpartition("/")[2])


def _disable(service: Service, key: str) -> None:
    service.client("kms").disable_key(KeyId=key.rpartition("/")[2])


@pytest.fixture
def sealed(service: Service, server: bytes, key: str) -> Image:
    """examples/static with a secret in it, under a key."""
    dockerfile = DOCKERFILE.replace(b"EXPOSE", b"COPY secret /secret\nEXPOSE")
    files = {"Dockerfile": dockerfile, "server": server, "secret": SECRET.encode()}
    return service.image("sealed", files, kmsKeyIdentifier=key)


def _count(microvm: Microvm) -> int:
    return int(microvm.text().split()[1])


def _refusal(call: object, **request: object) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as refused:
        call(**request)  # type: ignore[operator]
    answer = refused.value.response
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    return status, answer["Error"]["Code"], answer["Error"]["Message"]


def test_a_kill_ends_nothing_and_leaves_nothing_plain_on_disk(
    service: Service, sealed: Image, key: str
) -> None:
    assert _plain_on_disk(service) == [], "a build leaves nothing, and no layers"
    shown = service.root / "shown"
    shown.write_text(SECRET)
    assert _plain_on_disk(service) == [shown], "it would be found"
    shown.unlink()
    assert not service.plain.exists()
    microvm = service.run(sealed, executionRoleArn=ROLE)
    assert _count(microvm) == 1
    assert _holds(next(service.plain.glob("images/*/*/*/disk.raw")).with_name("rootfs.erofs"))
    assert _plain_on_disk(service) == []
    service.kill()
    assert _count(microvm) == 2
    service.start()
    assert microvm.state == "RUNNING"
    assert _count(microvm) == 3
    microvm.suspend()
    until(lambda: None if service.plain.exists() else True, 10, "plain files are gone")
    assert _plain_on_disk(service) == []
    service.kill()
    service.start()
    assert _count(microvm) == 4, "resumed by a request"
    assert _plain_on_disk(service) == []
    microvm.terminate()
    service.check_strays()
    assert not service.plain.exists()


@pytest.mark.usefixtures("enabled")
def test_a_disabled_key_starts_nothing_and_says_so(
    service: Service, sealed: Image, key: str
) -> None:
    microvm = service.run(sealed)
    assert _count(microvm) == 1
    microvm.suspend()
    _disable(service, key)
    refused = (400, "ValidationException", f"The KMS key {key} is disabled.")
    before = set(service.states())
    assert _refusal(service.api.run_microvm, imageIdentifier=sealed.arn) == refused
    assert set(service.states()) == before
    assert _refusal(service.api.resume_microvm, microvmIdentifier=microvm.id) == refused
    assert microvm.state == "SUSPENDED"
    assert microvm.request().status_code == 502, "an automatic resume is refused too"
    assert microvm.state == "SUSPENDED"
    assert not service.plain.exists()
    service.client("kms").enable_key(KeyId=key.rpartition("/")[2])
    assert _count(microvm) == 2


@pytest.mark.usefixtures("enabled")
def test_a_build_with_a_disabled_key_fails_with_the_reason(
    service: Service, server: bytes, key: str
) -> None:
    _disable(service, key)
    files = {"Dockerfile": DOCKERFILE, "server": server}
    image = service.begin_image("refused", files, kmsKeyIdentifier=key)
    assert service.built(image) == "FAILED"
    assert service.build(image)["stateReason"] == f"The KMS key {key} is disabled."


def test_a_kill_while_it_suspends_or_resumes(service: Service, sealed: Image) -> None:
    """Whatever was under way is finished or taken back; the application goes on."""
    microvm = service.run(sealed)
    expected = 1
    for call in (service.api.suspend_microvm, service.api.resume_microvm) * 2:
        assert _count(microvm) == expected
        expected += 1
        if call.__name__ == "resume_microvm":
            microvm.suspend()
        with suppress(ClientError):
            call(microvmIdentifier=microvm.id)
        service.kill()
        service.start()
        until(lambda: _settled(microvm), 60, "a settled state")
        assert _plain_on_disk(service) == []
    assert _count(microvm) == expected
    microvm.terminate()
    service.check_strays()


def _settled(microvm: Microvm) -> bool | None:
    state = microvm.state
    assert state != "TERMINATED", microvm.get()
    return True if state in ("RUNNING", "SUSPENDED") else None


def test_a_key_of_the_run_alone(service: Service, counter: Image, key: str) -> None:
    microvm = service.run(counter, kmsKeyIdentifier=key)
    assert microvm.get()["kmsKeyIdentifier"] == key
    assert _count(microvm) == 1
    microvm.suspend()
    raw = (service.root / "microvms" / microvm.id / "device").read_bytes()
    assert raw.startswith(b"MVMSEAL1")
    assert _count(microvm) == 2
    microvm.terminate()
