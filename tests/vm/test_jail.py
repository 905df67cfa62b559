"""The jail as the kernel shows it, and that a VMM in it outlives its node."""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from microvmd.node.cgroup import Limits, find_hierarchies, names
from microvmd.node.jail import Jails, JailSettings, limits_for
from microvmd.node.snapshot import SuspendFiles
from microvmd.vmm.machine import (
    AcceleratorKind,
    EndReason,
    FromImage,
    FromSuspend,
    MachineFailed,
    MachineFiles,
    MachineSpec,
    Start,
    Status,
)
from microvmd.vmm.process import ProcessGone, ProcessIdentity
from microvmd.vmm.qemu import adopt, launch
from tests.accelerated import accelerator_kind
from tests.checkout import CHECKOUT

if TYPE_CHECKING:
    from tests.vm.conftest import SmallGuest

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

LIMITS = limits_for(512, 1)
KIND = accelerator_kind()
DEVICES = {"null", "urandom"} | ({"kvm"} if KIND is AcceleratorKind.KVM else set())
NAMESPACES = ("mnt", "pid", "net", "ipc", "uts")
START_LIMIT = 60


async def test_the_kernel_shows_a_jail(
    small_guest: "SmallGuest", jails: Jails, tmp_path: Path
) -> None:
    async with (
        jails.jail("first", LIMITS, KIND) as jail,
        jails.jail("second", LIMITS, KIND) as other,
        small_guest.restored(tmp_path, launcher=jail) as (machine, voice),
    ):
        assert await voice.ask("ping") == "pong"
        assert jail.uid != other.uid
        process = Path(f"/proc/{machine.identity.pid}")
        status = dict(
            line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
        )
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(jail.uid)}
        assert not status["Groups"].strip()
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, kind
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["NSpid"].split()[-1] == "1"
        for namespace in NAMESPACES:
            own = os.readlink(process / "ns" / namespace)
            assert own != os.readlink(f"/proc/self/ns/{namespace}"), namespace
        limits = (process / "limits").read_text()
        assert "Max core file size        0 " in limits
        assert (process / "oom_score_adj").read_text() == "500\n"
        _assert_root_is_bare(process)
        joined = (process / "cgroup").read_text()
        assert joined.count("/first") == len({h.root for h in find_hierarchies()})


def _assert_root_is_bare(process: Path) -> None:
    root = process / "root"
    assert set(os.listdir(root)) == {"dev", "lib", "lib64", "machine", "proc", "usr"}
    assert set(os.listdir(root / "dev")) == DEVICES
    assert os.listdir(root / "proc") == ["sys"]
    assert os.listdir(root / "usr/bin") == [Path(os.readlink(process / "exe")).name]
    for path in ("etc", "root", "home", "var", "tmp", "run", "sys", "proc/self"):
        assert not (root / path).exists(), path
    mounts = (process / "mountinfo").read_text().splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    assert set(options) == {"/", "/dev", "/machine/memory"}
    for where, flags in options.items():
        assert "ro" in flags, where
        assert "nosuid" in flags, where
    interfaces = (process / "net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    for fd in os.listdir(process / "fd"):
        with contextlib.suppress(FileNotFoundError):
            assert not stat.S_ISDIR(os.stat(process / "fd" / fd).st_mode)


async def test_suspends_and_resumes_in_jails(
    small_guest: "SmallGuest", jails: Jails, tmp_path: Path
) -> None:
    files = SuspendFiles(tmp_path)
    start: Start = FromImage(small_guest.device)
    memory_sum = small_guest.memory_sum
    for generation in range(3):
        async with (
            jails.jail("one", LIMITS, KIND) as jail,
            small_guest.restored(tmp_path, start, jail) as (machine, voice),
        ):
            assert await voice.ask("sum") == memory_sum
            memory_sum = await voice.ask(f"dirty 5 {generation}")
            await machine.suspend(files.device, files.diff)
            await machine.kill()
            assert not jail.out_of_memory()
        start = FromSuspend(files.device, files.diff)


async def test_ends_without_a_trace(
    small_guest: "SmallGuest", jails: Jails, jail_settings: JailSettings, tmp_path: Path
) -> None:
    async with (
        jails.jail("gone", LIMITS, KIND) as jail,
        small_guest.restored(tmp_path, launcher=jail) as (machine, _),
    ):
        identity = machine.identity
    assert not identity.alive()
    assert "gone" not in names(find_hierarchies(), jail_settings.group)


async def test_running_out_of_memory_is_told(
    small_guest: "SmallGuest", jails: Jails, tmp_path: Path
) -> None:
    async with (
        jails.jail("small", Limits(memory_bytes=160 << 20, pids=64), KIND) as jail,
        small_guest.restored(tmp_path, launcher=jail) as (machine, voice),
    ):
        voice.say("dirty 300 1")
        async with asyncio.timeout(START_LIMIT):
            end = await machine.wait()
        assert end.reason is EndReason.CRASH
        assert end.exit.signal == signal.SIGKILL
        assert jail.out_of_memory()


async def test_a_jail_that_cannot_be_built_says_why(
    small_guest: "SmallGuest", jails: Jails, tmp_path: Path
) -> None:
    spec = small_guest.spec_for(tmp_path)
    start = FromImage(small_guest.device)
    async with jails.jail("none", LIMITS, KIND) as jail:
        with pytest.raises(MachineFailed, match="exec /usr/bin/nothing"):
            async with launch(
                spec, MachineFiles(tmp_path), jail, start, qemu=Path("/usr/bin/nothing")
            ):
                pass


NODE = """
import asyncio, pickle, sys
from tests.vm import test_jail

asyncio.run(test_jail.play_node(pickle.loads(bytes.fromhex(sys.argv[1]))))
"""


@dataclass(frozen=True)
class Plan:
    """What another process starts."""

    jails: JailSettings
    spec: MachineSpec
    directory: Path
    device: Path
    paused: bool

    @property
    def files(self) -> MachineFiles:
        return MachineFiles(self.directory)


async def play_node(plan: Plan) -> None:
    """Another process: start a jailed VMM, say so, and wait to be killed."""
    jails, files = await Jails.open(plan.jails), plan.files
    async with (
        jails.jail("kept", LIMITS, KIND) as jail,
        launch(plan.spec, files, jail, FromImage(plan.device)) as machine,
    ):
        await machine.cont()
        if plan.paused:
            await machine.suspend(files.directory / "device", files.directory / "memory.diff")
        sys.stdout.write(json.dumps(asdict(machine.identity)) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


@pytest.fixture(params=[False, True], ids=["running", "paused"])
def plan(
    request: pytest.FixtureRequest,
    small_guest: "SmallGuest",
    jail_settings: JailSettings,
    tmp_path: Path,
) -> Plan:
    spec = small_guest.spec_for(tmp_path)
    return Plan(jail_settings, spec, tmp_path, small_guest.device, request.param)


@contextlib.contextmanager
def _node(plan: Plan) -> Iterator[ProcessIdentity]:
    """Run `play_node` elsewhere, and kill that process before the body runs."""
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, pickle.dumps(plan).hex()],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}/src:{CHECKOUT}"},
    )
    assert node.stdout is not None
    with node.stdout:
        lines = (line for line in node.stdout if line.startswith(b"{"))
        identity = ProcessIdentity(**json.loads(next(lines)))
        node.kill()
        node.wait()
    yield identity


async def test_adopted_after_the_node_was_killed(plan: Plan, jails: Jails) -> None:
    files = plan.files
    with _node(plan) as identity:
        assert identity.alive()
        async with (
            jails.adopt("kept", identity) as jail,
            adopt(plan.spec, files, identity) as machine,
        ):
            assert await machine.status() is (Status.PAUSED if plan.paused else Status.RUNNING)
            if plan.paused:
                await machine.cont()
            reader, writer = await asyncio.open_unix_connection(files.agent)
            writer.write(b"ping\n")
            assert await reader.readline() == b"pong\n"
            writer.close()
            await writer.wait_closed()
            assert jail.uid == plan.jails.first_uid
            await machine.suspend(files.directory / "device", files.directory / "memory.diff")
            end = await machine.kill()
        assert end.reason is EndReason.ASKED
        assert not identity.alive()
        with pytest.raises(ProcessGone):
            async with jails.adopt("kept", identity):
                pass


async def test_sweep_ends_what_nobody_knows(
    plan: Plan, jails: Jails, jail_settings: JailSettings
) -> None:
    with _node(plan) as identity:
        jails.sweep({"kept"})
        assert identity.alive()
        jails.sweep(set())
        assert not identity.alive()
        assert not names(find_hierarchies(), jail_settings.group)
