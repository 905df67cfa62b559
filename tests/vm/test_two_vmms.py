"""One node, two VMMs: an image runs under the one that it was built for, whichever is the node's.

Collected where the tests run under KVM (`conftest.py`), because Firecracker needs that.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.messages.node import (
    DeleteVersion,
    MicrovmSpec,
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendMicrovm,
    Unfit,
    VersionDeleted,
    VersionKey,
)
from microvmd.node.bring_up import VmmMissing
from tests.nodelab import ACCOUNT, READY_ONLY, NodeLab, RunningNode, ask, spec_of
from tests.vm.test_microvm import gone, started

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

CHOSEN = VersionKey(ACCOUNT, "chosen", "1.0")
PROGRAMS = {"qemu": "qemu-system-x86_64", "firecracker": "firecracker"}


def program_of(node: RunningNode, spec: MicrovmSpec) -> str:
    pid = node.pid_of(spec)
    assert pid is not None
    return Path(os.readlink(f"/proc/{pid}/exe")).name


async def test_an_image_runs_under_the_vmm_that_it_chose(node_lab: NodeLab) -> None:
    own = node_lab.vmm_kind
    (other,) = set(PROGRAMS) - {own}
    lab = replace(node_lab, offered=(other,))
    async with lab.node() as node:
        await lab.capture(node.equipment.under(other), version=CHOSEN, hooks=READY_ONLY)
        ours, chosen = spec_of(), replace(spec_of(), version=CHOSEN)
        address = await started(node, chosen)
        await started(node, ours)
        assert program_of(node, ours).startswith(PROGRAMS[own])
        assert program_of(node, chosen).startswith(PROGRAMS[other])
        assert await ask(address, "count") == "1"
        await node.agent.send(SuspendMicrovm(chosen.microvm_id, 1))
        await node.reports.next(Suspended)
        chosen = replace(chosen, generation=2)
        await node.agent.send(ResumeMicrovm(chosen))
        assert await ask((await node.reports.next(Started)).edge_address, "count") == "2"
        assert program_of(node, chosen).startswith(PROGRAMS[other])
        await gone(node, chosen)
        await gone(node, ours)

    # A node that offers its own alone says so, before a build and at a start.
    async with node_lab.node() as node:
        with pytest.raises(VmmMissing, match=f"^VMM_NOT_OFFERED: The image asks for {other}"):
            node.equipment.under(other)
        spec = replace(spec_of(), version=CHOSEN)
        await node.start(spec)
        assert "made under kvm" in (await node.reports.next(Unfit)).reason
        await node.agent.send(DeleteVersion(CHOSEN))
        await node.reports.next(VersionDeleted)
