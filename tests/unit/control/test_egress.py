"""Who may use a connector, which version that pins, and what is left of it later."""

from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from microvmd.messages.node import (
    BuildVersion,
    ConnectorProvisioned,
    ConnectorRevoked,
    ProvisionConnector,
    ResumeMicrovm,
    RevokeConnector,
    Started,
    StartMicrovm,
    Suspended,
)
from microvmd.model.egress import INTERNET, NOTHING, Egress, EgressMap, MappedSubnet, Reach
from microvmd.model.errors import NotFound, ValidationError
from microvmd.model.microvm import MicroVm
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, REGION, Plane, plane

pytestmark = pytest.mark.anyio

ONE, TWO = IPv4Network("10.1.0.0/16"), IPv4Network("10.2.0.0/16")
NETWORKS = EgressMap({"subnet-1": MappedSubnet((ONE,)), "subnet-2": MappedSubnet((TWO,))})
MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:INTERNET_EGRESS"


@pytest.fixture
async def p(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path, networks=NETWORKS) as made:
        await made.built()
        yield made


def configuration(subnet: str, compute: str = "MicroVm") -> dict[str, Any]:
    return {
        "VpcEgressConfiguration": {
            "SubnetIds": [subnet],
            "NetworkProtocol": "IPv4",
            "AssociatedComputeResourceTypes": [compute],
        }
    }


async def connect(p: Plane, name: str = "net", account: str = ACCOUNT, **more: Any) -> str:
    """An ACTIVE connector; its ARN."""
    request = {
        "Name": name,
        "Configuration": configuration("subnet-1"),
        "OperatorRole": "arn:aws:iam::000000000000:role/operator",
        "ClientToken": name,
        **more,
    }
    made = await p.connectors.create(account, request)
    await played(p)
    return made.connector.arn


async def played(p: Plane) -> None:
    """The node answers what concerns connectors; other commands stay for the test."""
    commands, p.node.commands = p.node.commands, []
    for command in commands:
        match command:
            case ProvisionConnector(connector_id=connector_id, number=number):
                await p.connectors.report(ConnectorProvisioned(connector_id, number))
            case RevokeConnector(connector_id=connector_id, numbers=numbers):
                await p.connectors.report(ConnectorRevoked(connector_id, numbers))
            case _:
                p.node.commands.append(command)


async def run(p: Plane, *egress: str) -> tuple[MicroVm, Egress]:
    request = {"imageIdentifier": IMAGE_ARN, "egressNetworkConnectors": list(egress)}
    microvm = await p.microvms.run(ACCOUNT, request)
    command = p.node.commands.pop()
    assert isinstance(command, StartMicrovm)
    return microvm, command.spec.egress


def opened(arn: str, number: int, network: IPv4Network) -> Reach:
    return Reach(f"{arn.rsplit(':', 1)[1]}:{number}", network)


async def test_without_connectors_the_internet_is_open(p: Plane) -> None:
    microvm, egress = await run(p)
    assert (egress, microvm.grants) == (INTERNET, ())


async def test_no_egress_opens_nothing(p: Plane) -> None:
    none = MANAGED.replace("INTERNET_EGRESS", "NO_EGRESS")
    microvm, egress = await run(p, none)
    assert (egress, microvm.egress, microvm.grants) == (NOTHING, (none,), ())


async def test_a_connector_opens_what_its_subnets_are_mapped_to(p: Plane) -> None:
    arn = await connect(p)
    unmapped = await connect(p, "other", Configuration=configuration("subnet-9"))
    microvm, egress = await run(p, arn)
    assert egress == Egress(reaches=(opened(arn, 1, ONE),))
    assert microvm.egress == (arn,)
    assert (await run(p, unmapped))[1] == NOTHING
    assert (await run(p, arn, MANAGED))[1] == Egress(True, (opened(arn, 1, ONE),))


async def test_an_unqualified_name_pins_the_version_in_force(p: Plane) -> None:
    arn = await connect(p)
    microvm, _ = await run(p, arn)
    changed = {"Identifier": arn, "Configuration": configuration("subnet-2")}
    await p.connectors.update(ACCOUNT, changed)
    await played(p)
    assert (await run(p, arn))[1] == Egress(reaches=(opened(arn, 2, TWO),))
    assert (await run(p, f"{arn}:1"))[1] == Egress(reaches=(opened(arn, 1, ONE),))
    await p.microvms.report(Started(microvm.microvm_id, 1, "10.0.0.2"))
    await p.microvms.suspend(ACCOUNT, microvm.microvm_id)
    await p.microvms.report(Suspended(microvm.microvm_id, 1))
    await p.microvms.resume(ACCOUNT, microvm.microvm_id)
    command = p.node.commands.pop()
    assert isinstance(command, ResumeMicrovm)
    assert command.spec.egress == Egress(reaches=(opened(arn, 1, ONE),))


async def test_what_is_deleted_opens_nothing_at_the_next_start(p: Plane) -> None:
    arn = await connect(p)
    await run(p, arn)
    await p.connectors.delete(ACCOUNT, arn)
    for _ in range(2):
        [(_, spec)] = await p.microvms.load_after_restart()
        assert spec.egress == NOTHING
        await played(p)


async def test_a_deleted_version_opens_nothing_either(p: Plane) -> None:
    arn = await connect(p)
    await run(p, arn)
    changed = {"Identifier": arn, "Configuration": configuration("subnet-2")}
    await p.connectors.update(ACCOUNT, changed)
    await played(p)
    await p.connectors.delete(ACCOUNT, f"{arn}:1")
    [(_, spec)] = await p.microvms.load_after_restart()
    assert spec.egress == NOTHING


async def test_connectors_that_a_run_cannot_name(p: Plane) -> None:
    arn = await connect(p)
    foreign = await connect(p, account="111122223333")
    web = await connect(p, "web", Configuration=configuration("subnet-1", "WebFunction"))
    for unknown in (foreign, f"{arn}x", f"{arn}:2"):
        with pytest.raises(NotFound) as caught:
            await run(p, unknown)
        assert caught.value.message == f"Network connector not found for: {unknown}"
    with pytest.raises(ValidationError, match="not for compute type MicroVm"):
        await run(p, web)
    pending = {
        "Name": "slow",
        "Configuration": configuration("subnet-1"),
        "OperatorRole": "arn:aws:iam::000000000000:role/operator",
        "ClientToken": "slow",
    }
    slow = (await p.connectors.create(ACCOUNT, pending)).connector.arn
    with pytest.raises(ValidationError, match="not in ACTIVE state"):
        await run(p, slow)
    await p.connectors.delete(ACCOUNT, arn)
    with pytest.raises(ValidationError, match="not in ACTIVE state"):
        await run(p, arn)
    await played(p)
    with pytest.raises(NotFound):
        await run(p, arn)


async def test_a_build_keeps_to_the_connector_of_its_image(p: Plane) -> None:
    arn = await connect(p)
    image = {**CREATE, "name": "closed", "egressNetworkConnectors": [arn]}
    _, version = await p.images.create(ACCOUNT, image)
    command = p.node.commands.pop()
    assert isinstance(command, BuildVersion)
    assert command.egress == Egress(reaches=(opened(arn, 1, ONE),))
    assert version.config.egress == (arn,)
    unknown = {"egressNetworkConnectors": [f"{arn}x"]}
    with pytest.raises(NotFound):
        await p.images.create(ACCOUNT, {**image, **unknown, "name": "x"})
    asked = {name: value for name, value in CREATE.items() if name != "name"}
    with pytest.raises(NotFound):
        await p.images.update(ACCOUNT, {**asked, **unknown, "imageIdentifier": IMAGE_ARN})


async def test_images_without_connectors_are_built_with_the_internet(p: Plane) -> None:
    await p.images.create(ACCOUNT, {**CREATE, "name": "open"})
    command = p.node.commands.pop()
    assert isinstance(command, BuildVersion)
    assert command.egress == INTERNET
