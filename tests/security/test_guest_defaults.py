"""What an application may do by default, as recorded of the real service: a container's rights.

The same attempts succeed, or fail for other reasons than rights, with additionalOsCapabilities.
"""

import asyncio
import re

import pytest

from microvmd.node.commands import nft
from tests.attacklab import CONTAINED, FREE, USER, USERS, Attacker, attacker
from tests.nodelab import LIMIT, NodeLab

pytestmark = [pytest.mark.vm, pytest.mark.security, pytest.mark.anyio]

REFUSED = "Operation not permitted"
READ_ONLY = "Read-only file system"
ATTEMPTS = (
    "mount",
    "hostname",
    "module",
    "reboot",
    "kexec",
    "swapon",
    "bpf",
    "setns",
    "files",
    "clock",
)
KERNEL_SETTINGS = (":proc:sys:kernel:panic", ":proc:sys:vm:swappiness", ":proc:sysrq-trigger")
MASKED = (":proc:kcore", ":proc:keys", ":proc:timer_list")
CONTAINER = "00000000a80425fb"
"""Recorded: CapBnd of the real service's applications."""


async def status(guest: Attacker) -> dict[str, str]:
    lines = (await guest.does("read", ":proc:self:status")).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_a_root_without_capabilities_is_a_containers(attack_lab: NodeLab) -> None:
    async with attack_lab.node() as node, attacker(node, version=CONTAINED) as guest:
        found = await status(guest)
        assert found["CapBnd"] == found["CapEff"] == found["CapPrm"] == CONTAINER
        assert found["CapAmb"] == "0" * 16
        for what in ATTEMPTS:
            assert await guest.does("try", what) == REFUSED, what
        assert await guest.does("try", "disk") != "it worked"
        for path in KERNEL_SETTINGS:
            assert await guest.does("write", path, "1") == READ_ONLY, path
        for path in MASKED:
            assert await guest.does("read", path) in ("", "No such file or directory"), path


async def test_all_capabilities_are_all(attack_lab: NodeLab) -> None:
    async with attack_lab.node() as node, attacker(node, version=FREE) as guest:
        found = await status(guest)
        assert found["CapBnd"] == found["CapEff"]
        assert int(found["CapEff"], 16) & int(CONTAINER, 16) == int(CONTAINER, 16)
        assert int(found["CapEff"], 16).bit_count() > 38
        for what in (*ATTEMPTS, "disk"):
            assert await guest.does("try", what) != REFUSED, what
        for path in KERNEL_SETTINGS[:2]:
            assert await guest.does("write", path, "1") == "it worked", path
        assert (await guest.does("read", MASKED[0])).startswith("\x7fELF")


async def test_there_is_no_swap_and_files_are_bounded(attack_lab: NodeLab) -> None:
    async with attack_lab.node() as node, attacker(node, version=CONTAINED) as guest:
        swaps = await guest.does("read", ":proc:swaps")
        assert len(swaps.splitlines()) == 1, "the heading alone"
        assert re.search(r"SwapTotal: +0 kB", await guest.does("read", ":proc:meminfo"))
        limits = await guest.does("read", ":proc:self:limits")
        assert re.search(r"Max open files +1024 +1024 ", limits)
        assert re.search(r"Max core file size +0 ", limits)


async def test_the_images_user_is_the_applications(attack_lab: NodeLab) -> None:
    async with attack_lab.node() as node, attacker(node, version=USERS) as guest:
        found = await status(guest)
        uid, gid = USER.split(":")
        assert found["Uid"].split() == [uid] * 4
        assert found["Gid"].split() == [gid] * 4
        assert found["CapEff"] == found["CapPrm"] == "0" * 16
        assert found["CapBnd"] == CONTAINER
        for what in ATTEMPTS:
            assert await guest.does("try", what) == REFUSED, what


async def opens(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(LIMIT):
            _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_the_hooks_port_is_closed_to_the_outside(attack_lab: NodeLab) -> None:
    async with attack_lab.node() as node, attacker(node, version=CONTAINED) as guest:
        assert await opens(guest.address, 8080)
        assert not await opens(guest.address, 9000)
        await nft("flush set inet vm blocked_ports\n", guest.network)
        assert await opens(guest.address, 9000), "it listens"
