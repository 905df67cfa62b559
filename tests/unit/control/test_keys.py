"""A run or resume that KMS would refuse is refused in its answer, and changes nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from microvmd.control.keys import KeyGate
from microvmd.messages.keys import KeyProblem, KeyRefused
from microvmd.messages.node import MicrovmSpec, Started, Suspended
from microvmd.model.errors import AccessDenied, ApiError, InternalError, ValidationError
from microvmd.model.microvm import Phase
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane

pytestmark = pytest.mark.anyio

KEY = "arn:aws:kms:us-east-1:000000000000:key/1"
RUN = {"imageIdentifier": IMAGE_ARN}


@dataclass
class KeyService:
    """Agrees, or refuses for `problem`; keeps what it was asked for."""

    problem: KeyProblem | None = None
    asked: list[MicrovmSpec] = field(default_factory=list)

    async def __call__(self, spec: MicrovmSpec) -> None:
        self.asked.append(spec)
        if self.problem is not None:
            raise KeyRefused(self.problem, f"The KMS key {spec.kms_key} is {self.problem}.")


@asynccontextmanager
async def built(directory: Path, service: KeyService, **request: object) -> AsyncIterator[Plane]:
    async with plane(directory, keys=KeyGate(service)) as p:
        await p.built(**request)
        yield p


REFUSALS: list[tuple[KeyProblem, type[ApiError]]] = [
    (KeyProblem.DENIED, AccessDenied),
    (KeyProblem.UNUSABLE, ValidationError),
    (KeyProblem.UNREACHABLE, InternalError),
]


@pytest.mark.parametrize(("problem", "error"), REFUSALS)
async def test_a_run_is_refused_and_never_was(
    problem: KeyProblem, error: type[ApiError], tmp_path: Path
) -> None:
    service = KeyService(problem)
    async with built(tmp_path, service, kmsKeyIdentifier=KEY) as p:
        with pytest.raises(error, match=f"The KMS key {KEY} is"):
            await p.microvms.run(ACCOUNT, {**RUN, "clientToken": "token"})
        assert p.node.taken() == []
        assert (await p.microvms.list_microvms(ACCOUNT)).items == []
        service.problem = None
        microvm = await p.microvms.run(ACCOUNT, {**RUN, "clientToken": "token"})
        assert microvm.phase is Phase.PENDING, "the token was not used up"
        assert p.node.taken() == ["StartMicrovm"]


async def test_who_has_no_key_waits_for_nobody(tmp_path: Path) -> None:
    service = KeyService(KeyProblem.UNREACHABLE)
    async with built(tmp_path, service) as p:
        await p.microvms.run(ACCOUNT, RUN)
        assert service.asked == []
        with pytest.raises(InternalError):
            await p.microvms.run(ACCOUNT, {**RUN, "kmsKeyIdentifier": KEY})
        assert [spec.kms_key for spec in service.asked] == [KEY]


async def test_a_run_asks_once_as_its_role(tmp_path: Path) -> None:
    service = KeyService()
    role = f"arn:aws:iam::{ACCOUNT}:role/run"
    async with built(tmp_path, service, kmsKeyIdentifier="image-key") as p:
        request = {**RUN, "kmsKeyIdentifier": KEY, "executionRoleArn": role, "clientToken": "t"}
        first = await p.microvms.run(ACCOUNT, request)
        assert [(spec.kms_key, spec.execution_role_arn) for spec in service.asked] == [(KEY, role)]
        again = await p.microvms.run(ACCOUNT, request)
        assert again.microvm_id == first.microvm_id
        assert len(service.asked) == 1, "a replay starts nothing"


async def _suspended(p: Plane) -> str:
    microvm = await p.microvms.run(ACCOUNT, RUN)
    await p.microvms.report(Started(microvm.microvm_id, 1, "10.0.0.1"))
    await p.microvms.suspend(ACCOUNT, microvm.microvm_id)
    await p.microvms.report(Suspended(microvm.microvm_id, 1))
    p.node.taken()
    return microvm.microvm_id


@pytest.mark.parametrize(("problem", "error"), REFUSALS)
async def test_a_refused_resume_leaves_it_suspended(
    problem: KeyProblem, error: type[ApiError], tmp_path: Path
) -> None:
    service = KeyService()
    async with built(tmp_path, service, kmsKeyIdentifier=KEY) as p:
        microvm_id = await _suspended(p)
        service.problem = problem
        with pytest.raises(error, match=f"The KMS key {KEY} is"):
            await p.microvms.resume(ACCOUNT, microvm_id)
        found = await p.microvms.get(ACCOUNT, microvm_id)
        assert (found.phase, found.generation) == (Phase.SUSPENDED, 1)
        assert p.node.taken() == []
        service.problem = None
        await p.microvms.resume(ACCOUNT, microvm_id)
        assert p.node.taken() == ["ResumeMicrovm"]
        assert service.asked[-1].generation == 2


async def test_resume_of_what_runs_asks_nobody(tmp_path: Path) -> None:
    service = KeyService()
    async with built(tmp_path, service, kmsKeyIdentifier=KEY) as p:
        microvm = await p.microvms.run(ACCOUNT, RUN)
        await p.microvms.report(Started(microvm.microvm_id, 1, "10.0.0.1"))
        service.asked.clear()
        await p.microvms.resume(ACCOUNT, microvm.microvm_id)
        assert service.asked == []
