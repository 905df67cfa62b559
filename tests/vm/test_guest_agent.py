"""The real agent in a real VM: everything the node asks of it, on an image without a shell."""

import asyncio
import contextlib
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from microvmd.messages.guest import RESYNC, Frame, FrameKind
from microvmd.node.guest import Exit, GuestClient, GuestError, GuestGone, GuestTimeout, connect
from microvmd.node.kernel import prepare
from microvmd.vmm.machine import (
    Boot,
    Drive,
    FromImage,
    MachineFiles,
    MachineSpec,
)
from microvmd.vmm.qemu import PlainLauncher, QemuMachine, launch
from tests.accelerated import accelerator
from tests.checkout import ASSETS

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

PROBE = Path(__file__).with_name("guest_probe.c")
BOOT_LIMIT = 60
SHORT = 20
MACHINE_ID = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Image:
    """A guest that has booted and was frozen while its agent waited for a node."""

    spec: MachineSpec
    device: Path

    @contextlib.asynccontextmanager
    async def restored(self, directory: Path) -> AsyncIterator[QemuMachine]:
        """A clone in `directory`, running."""
        await asyncio.to_thread(directory.mkdir, exist_ok=True)
        root, disk = self.spec.drives
        own = directory / "disk.raw"
        await asyncio.to_thread(shutil.copyfile, disk.path, own)
        spec = replace(self.spec, drives=(root, replace(disk, path=own)))
        start = FromImage(self.device)
        async with launch(spec, MachineFiles(directory), PlainLauncher(), start) as machine:
            await machine.cont()
            yield machine


def make_root(directory: Path) -> Path:
    """An image without a shell, with links and files where the agent needs something else."""
    tree = directory / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / "etc" / "passwd").write_text("app:x:1000:1001::/home/app:/none\n")
    (tree / "etc" / "group").write_text("app:x:1001:\nextra:x:50:app\n")
    (tree / "etc" / "hosts").symlink_to("/identity/hostname")
    (tree / "etc" / "resolv.conf").symlink_to("../../../dev/null")
    (tree / "dev").symlink_to("/rw")
    (tree / "tmp").write_text("a file")
    (tree / "var" / "lib" / "dbus").mkdir(parents=True)
    (tree / "var" / "lib" / "dbus" / "machine-id").write_text("old\n")
    probe = tree / "bin" / "probe"
    subprocess.run(["gcc", "-O1", "-static", "-o", probe, PROBE], check=True, timeout=60)
    root = directory / "root.erofs"
    subprocess.run(["mkfs.erofs", "-zlz4", root, tree], check=True, timeout=60, capture_output=True)
    return root


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    directory = tmp_path_factory.mktemp("image")
    disk = directory / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", disk], check=True, timeout=SHORT)
    kernel = prepare(ASSETS, directory / "cache")
    spec = MachineSpec(
        memory_mib=256,
        vcpus=1,
        memory_file=directory / "memory",
        kernel=kernel.vmlinux,
        initrd=kernel.initrd,
        accelerator=accelerator(),
        drives=(Drive("rootfs", make_root(directory), read_only=True), Drive("disk", disk)),
    )
    files = MachineFiles(directory)

    async def boot() -> None:
        async with launch(spec, files, PlainLauncher(), Boot()) as machine:
            await machine.cont()
            async with connect(files.agent, timeout=BOOT_LIMIT) as guest:
                assert guest.hello.state == "booted"
                await guest.quiesce()
            await machine.snapshot_image(directory / "device")

    asyncio.run(boot())
    return Image(spec, directory / "device")


@pytest.fixture
async def agent_socket(image: Image, tmp_path: Path) -> AsyncIterator[Path]:
    async with image.restored(tmp_path):
        yield MachineFiles(tmp_path).agent


@contextlib.asynccontextmanager
async def booted(agent_socket: Path) -> AsyncIterator[GuestClient]:
    async with connect(agent_socket, timeout=BOOT_LIMIT) as guest:
        await guest.configure("guest-1", MACHINE_ID, ["FROM_CONFIGURE=1", "BOTH=configure"])
        yield guest


async def read_until(guest: GuestClient, text: str) -> str:
    """Log bytes up to `text`."""
    seen = ""
    async with asyncio.timeout(SHORT):
        async for _, data in guest.logs:
            seen += data.decode()
            if text in seen:
                return seen
    raise AssertionError(f"the log ended: {seen}")


async def show(guest: GuestClient, *paths: str, **options: bool) -> str:
    completed = await guest.run(["probe", "show", *paths], **options)  # type: ignore[arg-type]
    assert completed.exit == Exit(0, None)
    return completed.stdout.decode()


async def test_an_application_lives_and_ends(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        assert guest.hello.state == "booted"
        info = await guest.info()
        assert str(info["kernel"]).startswith("6.12.")
        await guest.start(["probe", "serve", "9000"])
        logs = {1: "", 2: ""}
        async with asyncio.timeout(SHORT):
            while "serving\n" not in logs[1] or "to stderr\n" not in logs[2]:
                stream, data = await anext(guest.logs)
                logs[stream] += data.decode()
        assert 9000 in await guest.listening()
        with pytest.raises(GuestError) as refused:
            await guest.start(["probe", "cat"])
        assert refused.value.code == "busy"

        answers = [await guest.hook("ready", 9000, timeout_s=SHORT) for _ in range(3)]
        assert [answer.status for answer in answers] == [503, 503, 200]
        assert (await guest.hook("run", 9000, timeout_s=SHORT, body='{"x":"é"}')).status == 200
        assert 'run {"x":"é"}\n' in await read_until(guest, "é")
        assert (await guest.hook("suspend", 9000, timeout_s=SHORT)).status == 500
        assert (await guest.hook("ready", 9001, timeout_s=SHORT)).error == "refused"
        assert (await guest.hook("validate", 9000, timeout_s=SHORT)).error == "reset"
        assert (await guest.hook("terminate", 9000, timeout_s=0.3)).error == "timeout"

        await guest.quiesce()
        assert await guest.shutdown(grace=SHORT) == Exit(0, None)
        assert await guest.exited() == Exit(0, None)
    async with connect(agent_socket, timeout=SHORT) as guest:
        assert (guest.hello.state, guest.hello.exit) == ("exited", Exit(0, None))
        assert await guest.exited() == Exit(0, None)


async def test_the_log_so_far_comes_before_the_answer_to_drain(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        await guest.start(["probe", "serve", "9000"])
        await read_until(guest, "serving")
    for turn in range(10):
        async with connect(agent_socket, timeout=SHORT) as guest:
            assert (await guest.hook("run", 9000, timeout_s=SHORT, body=f"{turn}")).status == 200
            await guest.drain()
        assert f"run {turn}\n".encode() in [data async for _, data in guest.logs]


async def test_the_container_is_like_one_of_a_runtime(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        status = await show(guest, "/proc/self/status", "/proc/1/status")
        assert status.count("CapBnd:\t00000000a80425fb") == 1
        assert "CapEff:\t00000000a80425fb" in status
        assert re.findall(r"^SigIgn:\t0+$", status, re.MULTILINE)
        assert "Max open files            1024                 1024" in await show(
            guest, "/proc/self/limits"
        )
        mounts = {
            line.split(" ")[4]: line.split(" ")[5]
            for line in (await show(guest, "/proc/self/mountinfo")).splitlines()
        }
        for path, option in {
            "/sys": "ro",
            "/proc/sys": "ro",
            "/dev/shm": "rw",
            "/dev/pts": "rw",  # the image's /dev was a link to what is not there
            "/sys/fs/cgroup": "ro",
        }.items():
            assert option in mounts[path].split(","), path
        assert "0::/\n" in await show(guest, "/proc/self/cgroup")
        assert "oom_kill" in await show(guest, "/sys/fs/cgroup/memory.events")
        assert await show(guest, "/etc/hostname") == "guest-1\n"
        assert await show(guest, "/etc/hosts") == "127.0.0.1 localhost\n172.16.0.2 guest-1\n"
        assert await show(guest, "/etc/resolv.conf") == "nameserver 172.16.0.1\n"
        assert await show(guest, "/etc/machine-id") == f"{MACHINE_ID}\n"
        assert await show(guest, "/var/lib/dbus/machine-id") == f"{MACHINE_ID}\n"
        assert "172.16.0.1" not in await show(guest, "/proc/net/if_inet6")
        assert (await show(guest, "/proc/sys/net/ipv4/conf/eth0/route_localnet")) == "1\n"
        assert "010010AC" in await show(guest, "/proc/net/route")  # the gateway, 172.16.0.1
        device = (await guest.run(["probe", "device"])).stdout
        assert device == b"open: Permission denied\n"
        everything = await guest.run(["probe", "show", "/proc/self/status"], all_capabilities=True)
        assert b"CapEff:\t000001ffffffffff" in everything.stdout


async def test_all_capabilities_bring_every_device(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        mounts = await show(guest, "/proc/self/mountinfo", all_capabilities=True)
        kinds = {line.split(" ")[4]: line.split(" - ")[1] for line in mounts.splitlines()}
        assert kinds["/dev"].startswith("devtmpfs ")
        assert kinds["/dev/pts"].startswith("devpts ")
        assert "/proc/sys" not in kinds
        assert " /sys rw," in mounts
        boot_id = await show(guest, "/proc/sys/kernel/random/boot_id", all_capabilities=True)
        assert len(boot_id) == 37


async def test_processes_get_their_user_environment_and_directory(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        plain = (await guest.run(["/bin/probe", "environment"])).stdout.decode().splitlines()
        assert plain[-1] == "cwd / uid 0 gid 0"
        assert "HOME=/root" in plain
        assert any(line.startswith("PATH=/usr/local/sbin:") for line in plain)
        named = await guest.run(
            ["probe", "environment"], env=["BOTH=exec"], user="app:extra", cwd="/srv/new"
        )
        lines = named.stdout.decode().splitlines()
        assert lines[-1] == "cwd /srv/new uid 1000 gid 50"
        assert {"HOME=/home/app", "FROM_CONFIGURE=1", "BOTH=exec"} <= set(lines)
        assert (await show(guest, "/proc/self/status")).count("CapEff:\t0000000000000000") == 0
        for argv, user, expected in [
            (["missing"], "", "run missing: No such file or directory"),
            (["/etc/passwd"], "", "run /etc/passwd: Permission denied"),
            (["probe"], "nobody", "find user nobody: No such process"),
        ]:
            with pytest.raises(GuestError, match=expected) as refused:
                await guest.run(argv, user=user)
            assert refused.value.code == "start_failed"


async def test_exec_streams_input_output_and_ends(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        split = await guest.run(["probe", "split"])
        assert (split.exit, split.stdout, split.stderr) == (Exit(3, None), b"out\n", b"err\n")
        # Several windows in both directions.
        data = bytes(range(256)) * 2000
        echoed = await guest.run(["probe", "cat"], input=data)
        assert (echoed.exit, echoed.stdout) == (Exit(0, None), data)
        flood = await guest.run(["probe", "flood", "1000000"])
        assert len(flood.stdout) == 1_000_000
        async with await guest.exec(["probe", "deaf"]) as session:
            assert await session.read() == (1, b"deaf\n")
            await session.signal(9)
            assert await session.wait() == Exit(None, 9)
        # A closed session takes its process with it.
        async with await guest.exec(["probe", "deaf"]) as session:
            assert await session.read() == (1, b"deaf\n")
        assert (await guest.info())["sessions"] == 0


async def test_exec_has_terminals(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        async with await guest.exec(["probe", "terminal"], terminal=(24, 80)) as session:

            async def until(text: bytes) -> bytes:
                seen = b""
                while text not in seen:
                    chunk = await session.read()
                    assert chunk is not None, seen
                    seen += chunk[1]
                return seen

            async with asyncio.timeout(SHORT):
                await until(b"24 x 80\r\n")
                await session.resize(50, 132)
                await session.write(b"typed\n")
                assert b"got typed\r\n" in await until(b"50 x 132\r\n")
                assert await session.wait() == Exit(0, None)
        # Linux tells the end of a terminal before its last text about once in 150 times.
        for _ in range(80):
            environment = await guest.exec(["probe", "environment"], terminal=(1, 1))
            async with environment as session:
                seen = b""
                while (chunk := await session.read()) is not None:
                    seen += chunk[1]
            assert b"TERM=xterm\r\n" in seen
            assert seen.endswith(b" gid 0\r\n")


async def test_a_node_that_vanishes_is_forgotten(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        await guest.start(["probe", "serve", "9000"])
        await read_until(guest, "serving")
        session = await guest.exec(["probe", "deaf"])
        assert await session.read() == (1, b"deaf\n")
    with pytest.raises(GuestGone):
        await guest.info()
    # In the middle of a frame, and without waiting for the agent to notice.
    reader, writer = await asyncio.open_unix_connection(agent_socket)
    writer.write(Frame(FrameKind.DATA, 1, bytes(60_000)).encode()[:30_000])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    reader.feed_eof()
    async with connect(agent_socket, timeout=SHORT) as guest:
        assert guest.hello.state == "running"
        assert (await guest.info())["sessions"] == 0
        assert (await guest.hook("run", 9000, timeout_s=SHORT, body="{}")).status == 200
        await read_until(guest, "run {}")


async def test_garbage_is_survived_and_hello_recovers(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        before = await guest.info()
    _, writer = await asyncio.open_unix_connection(agent_socket)
    for piece in (b"\xff" * 5000, RESYNC, Frame(FrameKind.REQUEST, 1, b"{").encode(), b"\x56\x4d"):
        writer.write(piece)
        await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with connect(agent_socket, timeout=SHORT) as guest:
        assert (await guest.info())["kernel"] == before["kernel"]
        for op, members in [
            ("none", {}),
            ("start", {"argv": []}),
            ("start", {"argv": "text"}),
            ("exec", {"argv": ["a\0b"]}),
            ("hook", {"name": "../x", "port": 1, "timeoutMs": 5}),
            ("hook", {"name": "run", "port": 65536, "timeoutMs": 5}),
            ("restored", {"unixNanos": 1, "seed": "?", "hostname": "a", "machineId": MACHINE_ID}),
            ("configure", {"unixNanos": 1 << 60, "hostname": "a b", "machineId": MACHINE_ID}),
            ("signal", {"signal": 9}),
            ("resize", {"stream": 5, "rows": 1, "cols": 1}),
        ]:
            with pytest.raises(GuestError):
                await guest.request(op, **members)  # type: ignore[arg-type]


async def test_logs_without_a_node_are_kept_within_bounds(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        await guest.start(["probe", "flood", "3000000"])
        assert await guest.exited() == Exit(0, None)
        await guest.start(["probe", "deaf"])
        await read_until(guest, "deaf")
        session = await guest.exec(["probe", "random"])
        await session.wait()
    async with connect(agent_socket, timeout=SHORT) as guest:
        await guest.signal(9)
        assert await guest.exited() == Exit(None, 9)


async def test_an_agent_without_a_node_does_not_spin(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        before = int((await guest.info())["agentCpuMicros"])
        started = time.monotonic()
    await asyncio.sleep(1.0)  # the time in which it could spin
    async with connect(agent_socket, timeout=SHORT) as guest:
        used = int((await guest.info())["agentCpuMicros"]) - before
    assert used < (time.monotonic() - started) * 1e6 / 4


async def test_shutdown_forces_an_application_that_ignores_it(agent_socket: Path) -> None:
    async with booted(agent_socket) as guest:
        await guest.start(["probe", "deaf"])
        await read_until(guest, "deaf")
        assert await guest.shutdown(grace=0.2) == Exit(None, 9)


async def test_power_off_ends_the_vmm(image: Image, tmp_path: Path) -> None:
    async with image.restored(tmp_path) as machine:
        async with booted(MachineFiles(tmp_path).agent) as guest:
            with contextlib.suppress(GuestGone, GuestTimeout):
                await guest.shutdown(grace=1, power_off=True)
        async with asyncio.timeout(SHORT):
            await machine.wait()


async def test_clones_of_a_running_application_are_themselves(image: Image, tmp_path: Path) -> None:
    template = tmp_path / "template"
    own = replace(image.spec, memory_file=tmp_path / "memory")
    shutil.copyfile(image.spec.drives[1].path, tmp_path / "disk.raw")
    own = replace(own, drives=(own.drives[0], Drive("disk", tmp_path / "disk.raw")))
    template.mkdir()
    files = MachineFiles(template)
    async with launch(own, files, PlainLauncher(), Boot()) as machine:
        await machine.cont()
        async with booted(files.agent) as guest:
            await guest.start(["probe", "serve", "9000"])
            await read_until(guest, "serving")
            await guest.quiesce()
        await machine.snapshot_image(template / "device")
    running = Image(own, template / "device")
    seen = []
    for number in range(2):
        directory = tmp_path / f"clone{number}"
        async with (
            running.restored(directory),
            connect(MachineFiles(directory).agent, timeout=SHORT) as guest,
        ):
            seen.append(await become(guest, f"clone-{number}", f"{number:032x}"))
            assert (await guest.hook("run", 9000, timeout_s=SHORT)).status == 200
    (first_boot_id, first_random), (second_boot_id, second_random) = seen
    assert first_boot_id != second_boot_id
    assert first_random != second_random


async def become(guest: GuestClient, hostname: str, machine_id: str) -> tuple[str, bytes]:
    """Check that a restored guest takes its identity; its boot id and some random bytes."""
    assert guest.hello.state == "running"
    identity = await guest.restored(hostname, machine_id)
    assert (identity.hostname, identity.machine_id) == (hostname, machine_id)
    assert abs(identity.unix_nanos - time.time_ns()) < SHORT * 1e9
    again = await guest.restored(hostname, machine_id)
    assert again.boot_id == identity.boot_id
    assert again.sample != identity.sample
    given = str(uuid.uuid4())
    identity = await guest.restored(hostname, machine_id, given)
    assert identity.boot_id == given
    with pytest.raises(GuestError, match="bootId"):
        await guest.restored(hostname, machine_id, given.upper())
    random = (await guest.run(["probe", "random"])).stdout
    seen = await show(
        guest,
        "/etc/hostname",
        "/etc/machine-id",
        "/proc/sys/kernel/random/boot_id",
        "/proc/sys/kernel/hostname",
    )
    assert seen == f"{hostname}\n{machine_id}\n{identity.boot_id}\n{hostname}\n"
    return identity.boot_id, random
