"""Tags of images."""

from pathlib import Path

import pytest

from tests.unit.api.handling import handled
from tests.unit.control.plane import CREATE, IMAGE_ARN


@pytest.mark.anyio
async def test_tags(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        await api("CreateMicrovmImage", **CREATE, tags={"a": "1"})
        await api("TagResource", Resource=IMAGE_ARN, Tags={"b": "2"})
        await api("UntagResource", Resource=IMAGE_ARN, TagKeys=["a"])
        assert await api("ListTags", Resource=IMAGE_ARN) == {"Tags": {"b": "2"}}
