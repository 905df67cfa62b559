"""What a request names is found for its owner only, and a version only in its full form."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.control.lookups import find_image, image_named, version_named, view_named
from microvmd.control.store import Transaction
from microvmd.model.errors import NotFound
from microvmd.model.identifiers import ImageArn
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, plane

ARN = ImageArn.parse(IMAGE_ARN)
OTHER = "111111111111"


def test_an_image_is_found_under_its_whole_name_only(tmp_path: Path) -> None:
    def look(tx: Transaction) -> None:
        assert image_named(tx, ACCOUNT, ARN).arn == ARN
        assert view_named(tx, ACCOUNT, ARN).latest_active == "1.0"
        for account, arn in (
            (OTHER, ARN),
            (OTHER, replace(ARN, account=OTHER)),
            (ACCOUNT, replace(ARN, region="eu-west-1")),
            (ACCOUNT, replace(ARN, partition="aws-cn")),
            (ACCOUNT, replace(ARN, name="other")),
        ):
            assert find_image(tx, account, arn) is None
            with pytest.raises(NotFound, match=f"^MicroVMImage not found for .*ImageID: {arn}$"):
                image_named(tx, account, arn)
            with pytest.raises(NotFound):
                version_named(tx, account, arn, "1.0")

    asyncio.run(_looked(tmp_path, look))


def test_a_version_is_named_in_full(tmp_path: Path) -> None:
    def look(tx: Transaction) -> None:
        assert str(version_named(tx, ACCOUNT, ARN, "1.0").number) == "1.0"
        for text in ("1", "2.0", "latest", "01.0"):
            said = f"^MicroVMImage not found for MicroVMImage: {ARN}, Version: {text}$"
            with pytest.raises(NotFound, match=said):
                version_named(tx, ACCOUNT, ARN, text)

    asyncio.run(_looked(tmp_path, look))


async def _looked(directory: Path, look: Callable[[Transaction], None]) -> None:
    async with plane(directory) as p:
        await p.built()
        await p.store.run(look)
