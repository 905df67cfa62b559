"""What policies see of identifiers: own things with tags, nothing of others."""

from pathlib import Path

import pytest

from microvmd.control.subjects import Subject, Subjects
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, REGION, plane

pytestmark = pytest.mark.anyio

OTHER = "111122223333"


async def test_images_and_microvms(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built(tags={"team": "a"})
        microvm = await p.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        subjects = Subjects(p.store)
        mine = Subject(IMAGE_ARN, {"team": "a"})
        assert await subjects.image(ACCOUNT, IMAGE_ARN) == mine
        assert await subjects.microvm(ACCOUNT, microvm.microvm_id) == mine
        assert await subjects.image(OTHER, IMAGE_ARN) == Subject(IMAGE_ARN)
        assert await subjects.microvm(OTHER, microvm.microvm_id) == Subject(None)
        assert await subjects.microvm(ACCOUNT, "microvm-none") == Subject(None)
        gone = IMAGE_ARN.replace(":app", ":gone")
        assert await subjects.image(ACCOUNT, gone) == Subject(gone)
        for text in ("app", IMAGE_ARN.replace(":app", "/app"), ""):
            assert await subjects.image(ACCOUNT, text) == Subject(None)


async def test_connectors_that_are_not_there(tmp_path: Path) -> None:
    managed = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:HTTP_INGRESS"
    async with plane(tmp_path) as p:
        subjects = Subjects(p.store)
        assert await subjects.connector(ACCOUNT, REGION, managed) == Subject(managed)
        assert await subjects.connector(ACCOUNT, REGION, "net") == Subject(None)
        assert await subjects.connector(ACCOUNT, REGION, "not a name!") == Subject(None)
