"""The metadata service in a guest's namespace: who gets credentials there, and who does not."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from microvmd.model.egress import INTERNET, NOTHING, Egress
from microvmd.node import namespace, nftables
from microvmd.node.commands import ip, nft
from microvmd.node.metadata import Instance
from microvmd.node.network import Network, NetworkPool
from microvmd.node.roles import RoleCredentials
from microvmd.node.slots import NetworkSettings
from microvmd.vmm.process import ProcessFailed, run
from tests import lanes, netlab
from tests.netlab import Place, disarm

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

NOW = 1_700_000_000.0
FOREVER = 4_000_000_000.0
ROLE_PATH = "latest/meta-data/iam/security-credentials/"
# The real clients of every boto3 application.
FETCH = """
import json
from botocore.utils import InstanceMetadataFetcher, InstanceMetadataRegionFetcher
found = InstanceMetadataFetcher(timeout=2, config={"ec2_metadata_v1_disabled": True})
region = InstanceMetadataRegionFetcher(timeout=2).retrieve_region()
print(json.dumps([found.retrieve_iam_role_credentials(), region]))
"""
CURL = ("curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "2")


@dataclass(frozen=True)
class Role:
    """A role with these credentials."""

    name: str
    refused: bool = False

    async def current(self, wait: float) -> RoleCredentials:
        return RoleCredentials(f"ASIA{self.name}", "secret", "session", NOW, FOREVER)


def settings(run: Path) -> NetworkSettings:
    return lanes.own().networks(run)


def instance(name: str) -> Instance:
    return Instance(name, "eu-central-1", Role(name))


@dataclass(frozen=True)
class World:
    """A pool with one network that has a guest, whose role is named `one`."""

    pool: NetworkPool
    visitor: namespace.Visitor
    network: Network
    guest: Place


def in_world(
    directory: Path,
    test: Callable[[World], Awaitable[None]],
    egress: Egress = INTERNET,
) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            visitor = stack.enter_context(namespace.Visitor())
            pool = await stack.enter_async_context(NetworkPool(settings(directory)))
            network = await stack.enter_async_context(pool.network(egress))
            network.instance = instance("one")
            guest = await stack.enter_async_context(
                netlab.plugged_guest(network, visitor, directory / "guest")
            )
            await test(World(pool, visitor, network, guest))

    asyncio.run(main())


async def inside(path: Path, *argv: str) -> str:
    """What a program prints that runs in a namespace."""
    found = await run(["nsenter", f"--net={path}", *argv], timeout=20)
    return found.stdout.decode()


async def curl(path: Path, url: str, *options: str) -> str:
    return await inside(path, *CURL, *options, f"http://{nftables.METADATA}/{url}")


async def token(path: Path) -> str:
    header = "X-aws-ec2-metadata-token-ttl-seconds: 60"
    return await curl(path, "latest/api/token", "--request", "PUT", "--header", header)


async def credentials(path: Path, with_token: str | None = None) -> dict[str, str]:
    used = with_token or await token(path)
    header = f"X-aws-ec2-metadata-token: {used}"
    text = await curl(path, f"{ROLE_PATH}execution_role", "--header", header)
    found: dict[str, str] = json.loads(text)
    return found


@pytest.mark.parametrize("egress", [INTERNET, NOTHING], ids=["internet", "nothing"])
def test_botocore_finds_credentials_and_region(egress: Egress, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        found, region = json.loads(await inside(world.guest.path, sys.executable, "-c", FETCH))
        assert found == {
            "role_name": "execution_role",
            "access_key": "ASIAone",
            "secret_key": "secret",
            "token": "session",
            "expiry_time": "2096-10-02T07:06:40Z",
        }
        assert region == "eu-central-1"

    in_world(tmp_path, test, egress)


def test_version_1_is_refused(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        status = ("--write-out", "%{http_code}", "--output", "/dev/null")
        assert await curl(world.guest.path, ROLE_PATH, *status) == "401"

    in_world(tmp_path, test)


def test_a_token_does_not_pass_a_router(tmp_path: Path) -> None:
    """A container behind the guest's own address translation asks through the guest."""

    async def test(world: World) -> None:
        guest = world.guest.path
        async with netlab.place(tmp_path / "container", world.visitor) as container:
            await ip(
                [
                    f"link add docker0 type veth peer name eth0 netns {container.path}",
                    "address add 192.168.7.1/24 dev docker0",
                    "link set docker0 up",
                ],
                guest,
            )
            await ip(
                [
                    "address add 192.168.7.2/24 dev eth0",
                    "link set eth0 up",
                    "route add default via 192.168.7.1",
                ],
                container.path,
            )
            await world.guest.write("ipv4/ip_forward", "1")
            await nft(
                "table ip docker {\n chain c {\n type nat hook postrouting priority 100\n"
                ' oifname "eth0" masquerade\n }\n}\n',
                guest,
            )
            with pytest.raises(ProcessFailed, match="timed out"):
                await token(container.path)
            # All but the answer with the token comes through.
            found = await credentials(container.path, await token(guest))
            assert found["AccessKeyId"] == "ASIAone"

    in_world(tmp_path, test)


def test_each_guest_has_its_own(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with (
            world.pool.network() as network,
            netlab.plugged_guest(network, world.visitor, tmp_path / "other") as other,
        ):
            network.instance = instance("two")
            assert (await credentials(world.guest.path))["AccessKeyId"] == "ASIAone"
            assert (await credentials(other.path))["AccessKeyId"] == "ASIAtwo"
            with pytest.raises(json.JSONDecodeError):
                await credentials(other.path, await token(world.guest.path))

    in_world(tmp_path, test)


def test_nobody_outside_is_answered(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        edge = world.network.edge_address
        await ip([f"route add {nftables.METADATA}/32 via {edge}"])
        try:
            with pytest.raises(ProcessFailed):
                await run([*CURL, f"http://{nftables.METADATA}/"], timeout=20)
            await disarm(world.network.path, "local")
            found = await run([*CURL, f"http://{nftables.METADATA}/"], timeout=20)
            assert b"401" in found.stdout
        finally:
            await ip([f"route delete {nftables.METADATA}/32 via {edge}"])

    in_world(tmp_path, test)


def test_a_network_that_is_adopted_serves_again(tmp_path: Path) -> None:
    @contextlib.asynccontextmanager
    async def plugged(network: Network, visitor: namespace.Visitor) -> AsyncIterator[Place]:
        network.instance = instance("one")
        path = tmp_path / "guest"
        async with netlab.plugged_guest(network, visitor, path) as guest:
            yield guest

    async def main() -> None:
        with namespace.Visitor() as visitor:
            async with contextlib.AsyncExitStack() as stack:
                async with NetworkPool(settings(tmp_path)) as pool, pool.network() as network:
                    guest = await stack.enter_async_context(plugged(network, visitor))
                    before = await token(guest.path)
                    network.detach()
                async with (
                    NetworkPool(settings(tmp_path)) as pool,
                    pool.adopt(network.name) as adopted,
                ):
                    adopted.instance = instance("one")
                    with pytest.raises(json.JSONDecodeError):
                        await credentials(guest.path, before)
                    assert (await credentials(guest.path))["AccessKeyId"] == "ASIAone"

    asyncio.run(main())
