"""Which version a run takes, and what the node is told of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.control.runnable import choose_version, spec_of
from microvmd.messages.node import LogDelivery, VersionKey
from microvmd.model.egress import INTERNET
from microvmd.model.errors import NotFound, ValidationError
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.image import Version, VersionStatus
from microvmd.model.microvm import MicroVm, Phase
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, Plane, plane

pytestmark = pytest.mark.anyio

ARN = ImageArn.parse(IMAGE_ARN)


async def two_versions(p: Plane, **request: object) -> None:
    """``1.0`` and ``2.0``, both built."""
    await p.built(**request)
    update = {key: value for key, value in CREATE.items() if key != "name"}
    await p.images.update(ACCOUNT, {**update, **request, "imageIdentifier": IMAGE_ARN})
    await p.play_build()


async def chosen(p: Plane, **request: object) -> str:
    found = await p.store.run(lambda tx: choose_version(tx, ACCOUNT, ARN, request, p.managed))
    return str(found.number)


async def test_the_newest_active_version_or_the_pinned_one(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await two_versions(p)
        assert await chosen(p) == "2.0"
        assert await chosen(p, imageVersion="1.0") == "1.0"
        await p.images.set_status(ACCOUNT, IMAGE_ARN, "2.0", VersionStatus.INACTIVE)
        assert await chosen(p) == "1.0"
        with pytest.raises(NotFound, match=r"and version 2\.0"):
            await chosen(p, imageVersion="2.0")
        with pytest.raises(NotFound):
            await chosen(p, imageVersion="3.0")


async def test_no_image_or_that_of_another_account(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        with pytest.raises(NotFound):
            await chosen(p)
        await p.built()
        with pytest.raises(NotFound):
            await p.store.run(lambda tx: choose_version(tx, "111122223333", ARN, {}, p.managed))


async def test_a_payload_needs_a_run_hook(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        with pytest.raises(ValidationError, match="run hook"):
            await chosen(p, runHookPayload="{}")


def microvm(**changes: object) -> MicroVm:
    made = MicroVm(
        microvm_id="microvm-1",
        account=ACCOUNT,
        endpoint_id="e",
        image_arn=IMAGE_ARN,
        image_version="1.0",
        phase=Phase.RESUMING,
        generation=3,
        started_at=1_000_000_000.0,
        run_hook_payload="payload",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def version(p: Plane) -> Version:
    await p.built()
    found = await p.store.run(lambda tx: tx.version(ACCOUNT, "app", ImageVersion(1)))
    assert found is not None
    return found


async def test_what_the_node_is_told(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        spec = spec_of(microvm(), await version(p), INTERNET)
    assert (spec.microvm_id, spec.generation) == ("microvm-1", 3)
    assert spec.version == VersionKey(ACCOUNT, "app", "1.0")
    assert spec.run_hook_payload == "payload"
    assert spec.egress == INTERNET
    assert (spec.execution_role_arn, spec.delivery) == (None, None)


@pytest.mark.parametrize(
    ("image_key", "own_key", "told"),
    [(None, None, None), ("k1", None, "k1"), (None, "k2", "k2"), ("k1", "k2", "k2")],
)
async def test_its_own_key_wins_over_that_of_its_image(
    image_key: str | None, own_key: str | None, told: str | None, tmp_path: Path
) -> None:
    async with plane(tmp_path) as p:
        await p.built(**({"kmsKeyIdentifier": image_key} if image_key else {}))
        found = await p.store.run(lambda tx: tx.version(ACCOUNT, "app", ImageVersion(1)))
        assert found is not None
        spec = spec_of(microvm(kms_key=own_key, execution_role_arn="role"), found, INTERNET)
    assert (spec.kms_key, spec.execution_role_arn) == (told, "role")


async def test_the_node_is_told_of_the_execution_role(tmp_path: Path) -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/app"
    async with plane(tmp_path) as p:
        spec = spec_of(microvm(execution_role_arn=role), await version(p), INTERNET)
    assert spec.execution_role_arn == role
    assert spec.delivery == LogDelivery("/aws/lambda-microvms/app", spec.log.stream, role)
