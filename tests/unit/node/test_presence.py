"""What guests are told of themselves: whose role, under which name, for how long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.messages.node import BuildVersion, LogTarget
from microvmd.model.image import VersionConfig
from microvmd.node.metadata import Instance
from microvmd.node.network import Network
from microvmd.node.presence import build_present, microvm_present
from microvmd.node.roles import LIFETIME, SHORTEST, Roles
from tests.nodelab import IMAGE_ARN, VERSION, spec_of
from tests.unit.node.test_roles import Sts

pytestmark = pytest.mark.anyio

ROLE = "arn:aws:iam::000000000000:role/app"


@asynccontextmanager
async def opened(sts: Sts) -> AsyncIterator[Roles]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        yield Roles(sts, tasks, clock=lambda: sts.now)


def network() -> Network:
    return Network("x1", "10.0.0.2", Path("/nowhere"))


async def test_a_microvm_without_a_role_knows_its_region_and_name() -> None:
    sts, net, spec = Sts(), network(), spec_of()
    async with opened(sts) as roles:
        with microvm_present(net, roles, spec) as role:
            assert role is None
            assert net.instance == Instance(spec.microvm_id, "eu-central-1", None)
    assert sts.calls == []


async def test_a_microvm_has_its_execution_role() -> None:
    sts, net = Sts(), network()
    spec = replace(spec_of(), execution_role_arn=ROLE)
    async with opened(sts) as roles:
        with microvm_present(net, roles, spec) as role:
            assert role is not None
            assert net.instance == Instance(spec.microvm_id, "eu-central-1", role)
            async with asyncio.timeout(5):
                await sts.answered.acquire()
    assert sts.calls == [(ROLE, spec.microvm_id, LIFETIME)]


async def test_a_build_has_the_build_role_when_it_asks() -> None:
    sts, net = Sts(), network()
    config = VersionConfig("base", ROLE, "s3://b/k")
    command = BuildVersion(VERSION, "b-1", IMAGE_ARN, config, LogTarget("g", "s"))
    async with opened(sts) as roles:
        with build_present(net, roles, command):
            assert sts.calls == []
            assert net.instance is not None
            assert net.instance.role is not None
            assert await net.instance.role.current(5) is not None
    assert sts.calls == [(ROLE, "build-b-1", SHORTEST)]
