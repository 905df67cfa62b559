"""Where requests and shells of an endpoint go, and what both are told that go nowhere."""

from pathlib import Path

import pytest

from microvmd.edge.resolve import Answer, Forward, Refuse
from microvmd.messages.node import Started, Suspended
from microvmd.messages.shell import ShellEnd, ShellEnded
from microvmd.model.connector import Ingress, managed_arn
from microvmd.service.endpoints import Endpoints
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, REGION, Plane, plane

pytestmark = pytest.mark.anyio

ADDRESS = "10.200.0.2"
HIDDEN = Refuse(403, "Token authentication failed")


async def _running(p: Plane, *names: Ingress) -> tuple[str, str]:
    """Ids of a MicroVM with these ingress connectors and of its endpoint."""
    ingress = [managed_arn(name, REGION) for name in names]
    request = {"imageIdentifier": IMAGE_ARN, "ingressNetworkConnectors": ingress}
    microvm = await p.microvms.run(ACCOUNT, request)
    await p.microvms.report(Started(microvm.microvm_id, 1, ADDRESS))
    return microvm.microvm_id, microvm.endpoint_id


@pytest.mark.parametrize(
    ("names", "request_goes", "shell_goes"),
    [
        ((Ingress.HTTP,), Forward(ADDRESS), HIDDEN),
        ((Ingress.HTTP, Ingress.SHELL), Forward(ADDRESS), Forward(ADDRESS)),
        ((Ingress.SHELL,), HIDDEN, Forward(ADDRESS)),
        ((Ingress.ALL, Ingress.SHELL), Forward(ADDRESS), HIDDEN),
        ((Ingress.NONE,), HIDDEN, HIDDEN),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else None,
)
async def test_connectors_decide(
    tmp_path: Path, names: tuple[Ingress, ...], request_goes: Answer, shell_goes: Answer
) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        _, endpoint_id = await _running(p, *names)
        endpoints = Endpoints(p.microvms)
        assert await endpoints.locate(endpoint_id) == request_goes
        assert await endpoints.shells.locate(endpoint_id) == shell_goes


async def test_what_does_not_run(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        microvm_id, endpoint_id = await _running(p, Ingress.HTTP, Ingress.SHELL)
        await p.microvms.suspend(ACCOUNT, microvm_id)
        await p.microvms.report(Suspended(microvm_id, 1))
        endpoints = Endpoints(p.microvms)
        # Suspended without auto-resume, and of nobody.
        for name, answer in ((endpoint_id, Refuse()), ("unknown", HIDDEN)):
            assert await endpoints.locate(name) == answer
            assert await endpoints.shells.locate(name) == answer
            with pytest.raises(ShellEnded) as ended:
                await endpoints.shells.open(name).__aenter__()
            assert ended.value.why is ShellEnd.NOT_RUNNING
