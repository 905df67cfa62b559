"""A guest with a connector of the account's own reaches what the operator mapped, until it goes.

The network beside the service is a namespace that owns a private and a public address.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from microvmd.node.namespace import Visitor
from tests import netlab
from tests.journey.test_network import PORT, REACHES
from tests.servicelab import REGION, STATE_LIMIT, Image, Microvm, Service
from tests.serviceprocess import ACCOUNT, MAPPED_SUBNET, until

pytestmark = [pytest.mark.vm, pytest.mark.journey, pytest.mark.root]

MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
ADDRESSES = (netlab.INTERNET, netlab.PRIVATE, netlab.METADATA)


def _connector(core: Any, name: str, subnet: str) -> str:
    """An ACTIVE connector; its ARN."""
    egress = {
        "SubnetIds": [subnet],
        "NetworkProtocol": "IPv4",
        "AssociatedComputeResourceTypes": ["MicroVm"],
    }
    made = core.create_network_connector(
        Name=name,
        Configuration={"VpcEgressConfiguration": egress},
        OperatorRole=f"arn:aws:iam::{ACCOUNT}:role/operator",
    )

    def active() -> bool | None:
        return core.get_network_connector(Identifier=name)["State"] == "ACTIVE" or None

    until(active, STATE_LIMIT, f"{name} ACTIVE")
    return str(made["Arn"])


def _gone(core: Any, arn: str) -> bool | None:
    try:
        core.get_network_connector(Identifier=arn)
    except ClientError as error:
        return error.response["Error"]["Code"] == "ResourceNotFoundException" or None
    return None


def _reached(microvm: Microvm) -> list[str]:
    found: list[str] = microvm.execute(f"reaches({PORT}, {ADDRESSES!r})")
    return found


def _walk(service: Service, notebook: Image) -> None:
    core = service.client("lambda-core")
    mapped = _connector(core, "mapped", MAPPED_SUBNET)
    unmapped = _connector(core, "unmapped", "subnet-nowhere")
    closed = service.run(notebook, egressNetworkConnectors=[unmapped])
    microvm = service.run(notebook, egressNetworkConnectors=[mapped])
    assert microvm.get()["egressNetworkConnectors"] == [mapped]
    for one, reached in ((closed, []), (microvm, [netlab.PRIVATE])):
        one.execute(REACHES)
        assert _reached(one) == reached
    service.change_egress(microvm.id, [MANAGED + "NO_EGRESS"])
    assert _reached(microvm) == []
    service.change_egress(microvm.id, [MANAGED + "INTERNET_EGRESS"])
    assert _reached(microvm) == [netlab.INTERNET]
    service.change_egress(microvm.id, [mapped])
    microvm.suspend()
    microvm.resume()
    assert _reached(microvm) == [netlab.PRIVATE]
    service.kill()
    service.start()
    assert _reached(microvm) == [netlab.PRIVATE]
    for arn in (mapped, unmapped):
        service.client("lambda-core").delete_network_connector(Identifier=arn)
    core = service.client("lambda-core")
    until(lambda: _gone(core, mapped), STATE_LIMIT, "the connector is gone")
    assert _reached(microvm) == []
    microvm.suspend()
    microvm.resume()
    assert _reached(microvm) == []
    with pytest.raises(ClientError, match="Network connector not found"):
        service.run(notebook, egressNetworkConnectors=[mapped])


def test_a_connector_from_its_creation_to_its_end(
    service: Service, notebook: Image, tmp_path: Path
) -> None:
    async def main() -> None:
        with Visitor() as visitor:
            async with netlab.internet(visitor, tmp_path / "internet") as internet:
                with netlab.echo(await internet.socket(), ("0.0.0.0", PORT)):
                    await asyncio.to_thread(_walk, service, notebook)

    asyncio.run(main())
