"""Tags of images and of network connectors."""

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


@pytest.mark.anyio
async def test_tags_of_a_connector(tmp_path: Path) -> None:
    egress = {
        "SubnetIds": ["subnet-1"],
        "NetworkProtocol": "IPv4",
        "AssociatedComputeResourceTypes": ["MicroVm"],
    }
    async with handled(tmp_path) as api:
        made = await api(
            "CreateNetworkConnector",
            Name="net",
            Configuration={"VpcEgressConfiguration": egress},
            OperatorRole="arn:aws:iam::000000000000:role/operator",
            ClientToken="t",
            Tags={"a": "1"},
        )
        await api("TagResource", Resource=made["Arn"], Tags={"b": "2"})
        await api("UntagResource", Resource=made["Arn"], TagKeys=["a"])
        assert await api("ListTags", Resource=made["Arn"]) == {"Tags": {"b": "2"}}
