"""Dockerfiles of strangers against the node, in build machines: what they try, and what is left.

One Dockerfile tries many things, for each machine takes its time to boot. What the acts of
``attack.c`` do without a defence is shown in a build machine whose steps have left their container:
there they harm the machine's own kernel, which is thrown away. What a container keeps from a step
of its own (processes, secrets) is shown in ``test_build_escapes.py``, where builds take seconds.
"""

import asyncio
import contextlib
import socket
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from microvmd.build import toolchain
from microvmd.build.bases import BaseStore
from microvmd.build.builder import BuildOptions, Rootfs, build_rootfs
from microvmd.build.failure import BuildFailed
from microvmd.build.in_microvm import MicrovmWorkshop
from microvmd.build.job import Job
from microvmd.node import nftables
from microvmd.node.metadata import Instance
from microvmd.node.namespace import Visitor
from microvmd.node.network import Network
from microvmd.vmm.process import run as run_command
from tests import buildlab
from tests.netlab import (
    HOST_PUBLIC,
    INTERNET,
    LINK_LOCAL,
    METADATA,
    PRIVATE,
    Place,
    disarm,
    disarm_host,
    disarm_link,
    echo,
    internet,
)
from tests.networld import World, in_world
from tests.security.hostile import ACTS, Canary, attack_here, attack_program, tar_of, zip_of
from tests.vm.test_metadata import Role

pytestmark = [
    pytest.mark.security,
    pytest.mark.vm,
    pytest.mark.root,
    pytest.mark.timeout(600),
]

ACCOUNT = "111111111111"
LIMIT = 300.0
PORT = 7777
OVER = 7778
"""`attack network` ends when it reaches a private address here: not before the filter is off."""
ROLES = "/latest/meta-data/iam/security-credentials/"


def disks() -> bytes:
    """A tarball of device files: the first disk, whatever number virtio has for it."""
    members = [(f"disk-{major}", tarfile.BLKTYPE, f"{major}:0") for major in range(240, 256)]
    return tar_of(*members)


@dataclass
class Site:
    """Build machines, one account's builds in them, and what nobody of it may touch."""

    directory: Path
    cache: Path
    shop: MicrovmWorkshop
    canary: Canary
    lines: list[str] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    def log(self, line: str) -> None:
        self.lines.append(line)
        self.heard.set()

    async def hears(self, line: str) -> None:
        """Until the build prints this line."""
        async with asyncio.timeout(LIMIT):
            while line not in self.lines:
                assert not self.over, "\n".join(self.lines[-40:])
                self.heard.clear()
                await self.heard.wait()

    async def round(self) -> set[str]:
        """What `attack network` reached in a round that begins from now on."""
        begun = {line.split(":")[0] for line in self.lines if line.startswith("round ")}
        number = 2 + len([line for line in begun if line.endswith(" ended")])
        await self.hears(f"round {number} ended")
        words = (line.split() for line in self.lines if line.startswith(f"round {number}: "))
        return {target for _, _, target, state in words if state == "reached"}

    async def build(
        self,
        dockerfile: str,
        shop: MicrovmWorkshop | None = None,
        *,
        files: Mapping[str, bytes] | None = None,
        time_limit: float = 1000,
    ) -> Rootfs:
        every = {"Dockerfile": dockerfile.encode(), "attack": attack_program()}
        try:
            return await build_rootfs(
                zip_of(self.directory / "context.zip", every | dict(files or {})),
                output_dir=self.directory / "out",
                log=self.log,
                options=BuildOptions(ACCOUNT, self.cache, shop or self.shop, time_limit=time_limit),
            )
        finally:
            self.over = True
            self.heard.set()


@contextlib.asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    cache = buildlab.cache(directory)
    await BaseStore(cache / "bases").add("tiny", buildlab.tiny_base(directory))
    tools = await toolchain.prepare(cache, print)
    canary = Canary.make(directory, cache, tools.root)
    async with buildlab.workshop(directory) as shop:
        yield Site(directory, cache, shop, canary)


def run(directory: Path, test: Callable[[Site], Awaitable[None]]) -> None:
    """Run it, and see that it has left everything else as it was."""

    async def main() -> None:
        async with site(directory) as made:
            await test(made)
            made.canary.check()
            assert not [path for path in (directory / "out").iterdir() if path.name[0] == "."]

    asyncio.run(main())


NOISE = (
    b"\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m \xc2\x9b31m \xe2\x80\xaetxt.exe \xff\xfe\r"
    b"over\x08\x08\x00 end of noise\n"
)
# One step for most of it: each costs a build machine seconds.
ACTS_DOCKERFILE = """# syntax=registry.example/frontend:1
FROM tiny
COPY attack acts.sh noise /
ADD devices.tar /d/
RUN --mount=type=secret,id=role,target=/role --mount=type=ssh \\
    --mount=type=cache,id=c,target=/c --mount=type=bind,source=.,target=/context sh /acts.sh
RUN for each in /proc/[0-9]*; do cat $each/comm; done
"""
# In one stream: buildah copies two, and what one says can then stand in the middle of a line.
ACTS_SCRIPT = f"""
exec 2>&1
mkdir /own
/attack kernel /own
/attack ask {METADATA} {ROLES}
for each in /build/extras/job.json /build/store/storage /build/archive.zip {{secret}} /machine; do
  test -e $each && echo "sees $each"
done
test -e /context/../extras && echo "sees the builder"
for each in /d/*; do (exec 3< $each) && echo "sees $each"; done
cat /role || echo "no role"
test -e /run/buildkit/ssh_agent.0 || echo "no agent"
(sleep 3000 &)
(/attack network 127.0.0.1 1 > /dev/null 2>&1 &)
echo "left two behind"
/attack dig /c 2500
/attack bomb 300
cat /noise
/attack flood A 3000000
/attack flood "tiny
" 1500000
echo
"""


def test_a_step_reaches_neither_kernel_nor_node_nor_credentials(tmp_path: Path) -> None:
    """One machine, from its own kernel's interfaces to what it prints."""

    async def test(here: Site) -> None:
        script = ACTS_SCRIPT.format(secret=here.canary.secret).encode()
        files = {"acts.sh": script, "noise": NOISE, "devices.tar": disks()}
        rootfs = await here.build(ACTS_DOCKERFILE, files=files)
        text = "\n".join(here.lines)
        for act in ACTS:
            assert f"{act} refused" in text, act
        assert " worked" not in text
        # The address answers, and knows of no role.
        assert "metadata answered HTTP/1.1 404" in text
        assert "sees " not in text
        for line in ("no role", "no agent", "left two behind", "dug 2500", "forked 300 of 300"):
            assert line in here.lines, line
        # Of the step that looks there is the shell alone: the others died with their step.
        assert "sleep" not in here.lines
        assert "attack" not in here.lines
        assert any("end of noise" in line for line in here.lines)
        assert not any("\x1b" in line or "\x07" in line or "\x9b" in line for line in here.lines)
        assert max(map(len, here.lines)) <= 4096
        assert sum(map(len, here.lines)) < 17 << 20
        assert any("lines are not kept" in line for line in here.lines)
        assert rootfs.size > 0

    run(tmp_path, test)


def test_the_metadata_address_gives_a_role_to_who_has_one(tmp_path: Path) -> None:
    """What builds are kept from is not that it does not answer, but that they have no role."""
    program = attack_here(tmp_path)

    async def test(world: World) -> None:
        argv = ["nsenter", f"--net={world.guest.path}", f"{program}", "ask", METADATA, ROLES]
        said: dict[bool, str] = {}
        for role in (None, Role("one")):
            world.network.instance = Instance("one", "eu-central-1", role)
            said[role is not None] = (await run_command(argv, timeout=LIMIT)).stdout.decode()
        assert "metadata answered HTTP/1.1 404" in said[False]
        assert "metadata said execution_role" in said[True]

    in_world(tmp_path, test)


class Escaped(MicrovmWorkshop):
    """A machine whose steps have left buildah's container: its whole root is theirs to write."""

    def complete(self, job: Job) -> Job:
        return replace(super().complete(job), volumes=("/:/machine",))


def escaped(shop: MicrovmWorkshop) -> Escaped:
    return Escaped(*(getattr(shop, name) for name in MicrovmWorkshop.__slots__))


# In the place of the machine's umount, so that it is run last, as root, outside of any container.
FORGER = rb"""#!/usr/bin/python3
import json, os, socket, stat, subprocess, sys, time
if os.path.exists("/dev/own"):
    sys.exit()  # there is more than one mount
os.mkdir("/dev/own")
os.chmod("/usr/bin/attack", 0o755)
acts = subprocess.run(["/usr/bin/attack", "kernel", "/dev/own"], stdout=subprocess.PIPE, text=True)
print(acts.stdout)
def written(path, text):
    with open(path, "w") as file:
        file.write(text)
    with open(path) as file:
        return file.read().strip()
print("core dumps go to", written("/proc/sys/kernel/core_pattern", "|/attack"))
socket.sethostname("taken")
print("the machine is named", socket.gethostname())
time.clock_settime(time.CLOCK_REALTIME, 4_000_000_000)
print("the year is", time.gmtime().tm_year)
os.mknod("/dev/own/memory", stat.S_IFCHR | 0o600, os.makedev(1, 1))
with open("/dev/own/memory", "rb", buffering=0) as memory:
    print("read of its memory", len(memory.read(16)))
with open("/proc/sysrq-trigger", "w") as trigger:
    trigger.write("h")
log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
try:
    while b"sysrq: HELP" not in os.read(log, 8192):
        pass
    print("the kernel obeyed")
except BlockingIOError:
    print("the kernel said nothing")
for place in sorted(os.listdir("/sys/block")):
    try:
        with open(f"/dev/{place}", "r+b", buffering=0) as disk:
            first = disk.read(512)
            disk.seek(0)
            disk.write(first)
        print("writes", place)
    except OSError as error:
        print("cannot write", place)
    try:
        with open(f"/dev/{place}", "rb") as disk:
            print("secret on", place, b"another-" + b"account-alone" in disk.read(64 << 20))
    except OSError:
        pass
try:
    with open("/dev/vdf", "r+b", buffering=0) as result:
        result.seek(1 << 20)
        print("wrote beyond the result", result.write(b"x" * 512))
except OSError as error:
    print("nothing beyond the result")
superblock = bytearray(128)
superblock[:4] = b"\xe2\xe1\xf5\xe0"
superblock[12], superblock[36] = 12, 2
with open("/dev/vde", "r+b") as disk:
    disk.write(bytes(1024) + bytes(superblock))
    os.fsync(disk.fileno())
config = {"Entrypoint": ["/forged"], "Labels": {"x": "y" * 60000}}
with open("/dev/vdf", "r+b") as result:
    result.write(json.dumps({"Docker": {"config": config}}).encode().ljust(1 << 20))
    os.fsync(result.fileno())
"""


TAKING = """FROM tiny
COPY plant attack /
RUN cat /plant > /machine/usr/bin/umount && cat /attack > /machine/usr/bin/attack; \\
    for each in /build/extras/job.json /build/store/storage; do \\
        test -e /machine$each && echo "sees $each"; \\
    done
"""
HARM = (
    "core dumps go to |/attack",
    "the machine is named taken",
    "the year is 2096",
    "read of its memory 16",
    "the kernel obeyed",
)
"""Of the acts, what was not undone at once: to the machine, which is thrown away."""


def test_a_machine_that_its_steps_have_taken_forges_its_own_image_alone(tmp_path: Path) -> None:
    """All that a container refuses works there, and harms nobody else."""

    async def test(here: Site) -> None:
        rootfs = await here.build(TAKING, escaped(here.shop), files={"plant": FORGER})
        assert not [act for act in ACTS if f"{act} worked" not in here.lines]
        assert not [line for line in HARM if line not in here.lines]
        for seen in ("/build/extras/job.json", "/build/store/storage"):
            assert f"sees {seen}" in here.lines
        # It is the stranger's image whatever it says: judged like any, and started in a MicroVM.
        assert (rootfs.size, rootfs.config.argv) == (8192, ("/forged",))
        writes = [line.split()[-1] for line in here.lines if line.startswith("writes ")]
        refused = [line.split()[-1] for line in here.lines if line.startswith("cannot write ")]
        # Scratch, its own layers, output and result; not builder, zip, extras or bases.
        assert writes[:4] == ["vdb", "vdc", "vde", "vdf"]
        assert {"vda", "vdd", "vdg", "vdh"} <= set(refused)
        assert "secret on vdc False" in here.lines
        assert not any(line.startswith("secret on ") and "True" in line for line in here.lines)
        assert "nothing beyond the result" in here.lines

    run(tmp_path, test)


# In the places of programs of the machine: it takes the agent's port and speaks garbage.
SEIZER = b"#!/bin/sh\nexec /usr/bin/false do seize noise\n"
SEIZING = """FROM tiny
COPY attack seizer plant /
RUN cat /seizer > /machine/usr/bin/false && cat /plant > /machine/usr/bin/umount
RUN /attack network {targets}
"""


@contextlib.asynccontextmanager
async def world(here: Site) -> AsyncIterator[tuple[Network, Network, Place]]:
    """The network of the build that runs, a neighbour's, and the internet."""
    async with contextlib.AsyncExitStack() as stack:
        visitor = stack.enter_context(Visitor())
        (building,) = here.shop.networks._used
        neighbour = await stack.enter_async_context(here.shop.networks.network())
        inet = await stack.enter_async_context(internet(visitor, here.directory / "inet"))
        yield building, neighbour, inet


def test_a_step_reaches_the_internet_alone_and_a_taken_port_ends_the_build(
    tmp_path: Path, attacker_here: Path
) -> None:
    """The first network of a lab is the build's, the second its neighbour's."""
    attacker = attacker_here.read_bytes()

    async def test(here: Site) -> None:
        pool = here.shop.networks
        own, other = (pool._settings.slot(number) for number in range(2))
        closed = (
            nftables.GATEWAY,
            METADATA,
            own.edge_address,
            own.root_address,
            HOST_PUBLIC,
            other.root_address,
            other.edge_address,
            PRIVATE,
            LINK_LOCAL,
        )
        every = {f"{address}:{PORT}" for address in (*closed, INTERNET)}
        targets = [f"{address} {PORT}" for address in (*closed, INTERNET)]
        dockerfile = SEIZING.format(targets=" ".join([*targets, f"{PRIVATE} {OVER}"]))
        files = {"seizer": attacker, "plant": SEIZER}
        async with asyncio.TaskGroup() as tasks:
            build = tasks.create_task(refused(here, dockerfile, files))
            await here.hears("round 1 ended")
            async with world(here) as (building, neighbour, inet):
                assert (building.name, neighbour.name) == (own.name, other.name)
                ours = Place(building.path, inet.visitor)
                theirs = Place(neighbour.path, inet.visitor)
                places = (ours, ours, ours, None, None, None, theirs, inet, inet, inet)
                with contextlib.ExitStack() as stack:
                    for target, place in zip((*closed, INTERNET), places, strict=True):
                        made = socket.socket() if place is None else await place.socket()
                        stack.enter_context(echo(made, (target, PORT)))
                    assert await here.round() == {f"{INTERNET}:{PORT}"}
                    for network in (building, neighbour):
                        await disarm_link(network.path)
                        await disarm(network.path, "from_guest", "forwarded", "local")
                    await disarm_host(pool._settings, "to_host", "forwarded")
                    assert await here.round() == every
                    stack.enter_context(echo(await inet.socket(), (PRIVATE, OVER)))
                    assert await build == "INTERNAL_PLATFORM_ERROR"
        assert any("the guest broke the protocol" in line for line in here.lines)

    run(tmp_path, test)


async def refused(here: Site, dockerfile: str, files: Mapping[str, bytes]) -> str:
    """The code of the failure of a build whose steps have left their container."""
    with pytest.raises(BuildFailed) as caught:
        await here.build(dockerfile, escaped(here.shop), files=files)
    return caught.value.code
