"""Dockerfiles of strangers that take without end: processes, memory, disk, time, folders, lines."""

import asyncio
import contextlib
import os
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from microvmd.build import archive as judge
from microvmd.build import in_namespace, layers, workshop
from microvmd.build.builder import BuildOptions, build_rootfs
from microvmd.build.failure import BuildFailed
from microvmd.build.in_namespace import NamespaceWorkshop
from microvmd.build.layers import LayerLimits
from microvmd.build.lines import LOG_LIMIT
from microvmd.build.log import build_log
from microvmd.messages.node import LogTarget
from microvmd.node.cgroup import Cgroup, Limits, find_hierarchies
from microvmd.node.logs import LogStore
from microvmd.vmm.process import Completed
from microvmd.vmm.process import run as run_command
from tests import lanes
from tests.namelab import until
from tests.security.buildsite import ACCOUNT, ATTACK, OTHER, Site, run
from tests.security.hostile import attack_here, attack_program, zip_of

pytestmark = [pytest.mark.security, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(280)]

SPARSE = 8_000_000_000_000
"""Bytes of a file that has none."""


def test_holes_are_bounded_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "_MEASURE_SECONDS", 0.1)

    huge = tmp_path / "huge"
    huge.touch()
    assert subprocess.run([attack_here(tmp_path), "sparse", huge, f"{SPARSE}"]).returncode == 0
    assert huge.stat().st_size == SPARSE
    huge.unlink()

    async def test(here: Site) -> None:
        step = f"{ATTACK}RUN cat /dev/null > /huge && /attack sparse /huge %s\n"
        await here.build(step % 100_000_000)
        small = NamespaceWorkshop(disk_bytes=100 << 20, group=lanes.own().group)
        with pytest.raises(BuildFailed, match="DISK_STORAGE_FULL"):
            await here.build(step % SPARSE, shop=small, account=OTHER)

    run(tmp_path, test)


def test_processes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(here: Site) -> None:
        await here.build(f"{ATTACK}RUN /attack bomb 600\n")
        assert "forked 600 of 600" in here.lines
        monkeypatch.setattr(in_namespace, "PIDS", 300)
        with contextlib.suppress(BuildFailed):
            await here.build(f"{ATTACK}RUN /attack bomb 601\n")
        (line,) = [line for line in here.lines if line.endswith("of 601")]
        assert int(line.split()[1]) < 300

    run(tmp_path, test)


def test_memory_is_bounded_and_its_end_is_told(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        step = f"{ATTACK}RUN /attack hog 400\n"
        await here.build(step, shop=NamespaceWorkshop(memory_mib=1024, group=lanes.own().group))
        assert "took 400 MiB" in here.lines
        here.lines.clear()
        with pytest.raises(BuildFailed, match="container image build failed"):
            await here.build(
                f"{step}RUN echo 2\n",
                shop=NamespaceWorkshop(memory_mib=192, group=lanes.own().group),
                account=OTHER,
            )
        assert "took 400 MiB" not in here.lines
        assert any("a build may use 192 MiB of memory" in line for line in here.lines)

    run(tmp_path, test)


def test_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "_MEASURE_SECONDS", 0.1)
    step = f"{ATTACK}RUN /attack fill /big 300 && sleep 4 && rm /big\n"

    async def test(here: Site) -> None:
        await here.build(step, shop=NamespaceWorkshop(group=lanes.own().group))
        small = NamespaceWorkshop(disk_bytes=100 << 20, group=lanes.own().group)
        with pytest.raises(BuildFailed, match="DISK_STORAGE_FULL: The build needs more disk"):
            await here.build(step, shop=small, account=OTHER)
        assert not list((here.cache / "layers" / OTHER).glob("*/namespace"))

    run(tmp_path, test)


# Seconds that tell them from processes of another run on this machine.
ENDLESS_SECONDS = 4_000_000 + os.getpid()
ENDLESS = (
    f"RUN trap '' TERM HUP INT; (sleep {ENDLESS_SECONDS} &) ; "
    f"echo begun ; exec sleep {ENDLESS_SECONDS}"
)


def endless() -> list[int]:
    argv = ["pgrep", "-f", f"^sleep {ENDLESS_SECONDS}$"]
    done = subprocess.run(argv, capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


def test_a_step_that_never_ends_is_ended_with_all_it_left(tmp_path: Path) -> None:
    """The second limit is for a machine that does not come to the step within the first."""

    async def test(here: Site) -> None:
        for seconds in (15, 100):
            with pytest.raises(BuildFailed, match=f"The build took over {seconds} seconds"):
                await here.build(f"FROM tiny\n{ENDLESS}\n", time_limit=seconds)
            if "begun" in here.lines:
                break
        assert "begun" in here.lines
        assert endless() == []

    run(tmp_path, test)


def test_a_step_that_never_ends_goes_on_where_nobody_keeps_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is over before the step begins; what it began is deaf to polite signals."""

    async def patient(argv: list[str], *, timeout: float, **others: Any) -> Completed:  # noqa: ASYNC109
        return await run_command(argv, timeout=timeout + 250, **others)

    async def test(here: Site) -> None:
        monkeypatch.setattr(in_namespace, "run", patient)
        async with asyncio.TaskGroup() as tasks:
            build = tasks.create_task(here.build(f"FROM tiny\n{ENDLESS}\n", time_limit=0.01))
            await until(lambda: "begun" in here.lines and len(endless()) == 2, limit=120)
            for pid in endless():
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGHUP)
            assert len(endless()) == 2
            assert not build.done()
            build.cancel()
        assert endless() == []

    run(tmp_path, test)


def test_folders_without_end_leave_with_their_store(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        reason = await here.refused(f"{ATTACK}RUN mkdir /t && /attack dig /t 2500\n")
        assert "container image build failed" in reason
        small = LayerLimits(account_bytes=1 << 20)
        (store,) = (here.cache / "layers" / ACCOUNT).glob("*/namespace")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers, "remove_tree", remove_by_paths)
            with pytest.raises((OSError, RecursionError)):
                await layers.prune(here.cache / "layers", small)
        assert deepest(store) > 4096, "a path that no call takes"
        await here.build("FROM tiny\nRUN true\n", limits=small)
        assert not store.exists()

    run(tmp_path, test)


async def remove_by_paths(folder: Path) -> None:
    """As a careless program would: each by its whole path."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            os.unlink(os.path.join(place, name))
        os.rmdir(place)


def deepest(folder: Path) -> int:
    """Length of the longest path of a folder below this one."""
    argv = ["find", os.fspath(folder), "-type", "d", "-printf", "%p\\n"]
    done = subprocess.run(argv, check=True, capture_output=True)
    return max(map(len, done.stdout.splitlines()))


def test_folders_without_end_in_the_zip(tmp_path: Path) -> None:
    """What others unpack until they fail is refused before; tests/unit/build has every rule."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("Dockerfile", "FROM tiny\n")
        made.writestr("d/" * 2500 + "f", "x")
    naive = tmp_path / "naive"
    with zipfile.ZipFile(path) as opened, pytest.raises((OSError, RecursionError)):
        opened.extractall(naive)
    with pytest.raises(BuildFailed, match="folders"):
        judge.inspect(path, judge.ArchiveLimits())


def test_the_log_store_gets_bounded_printable_lines(tmp_path: Path) -> None:
    noise = b"\x1b]0;x\x07\x1b[31mred\x1b[0m \xe2\x80\xaeexe.txt \xc2\x9b2J \xff\xfe\x00 end\r\n"
    target = LogTarget("builds", "one")
    step = f"{ATTACK}COPY noise /\nRUN cat /noise\nRUN /attack flood A 20000000\nRUN echo after\n"

    async def test(here: Site) -> None:
        async with LogStore(tmp_path / "logs") as store:
            async with build_log(store, target) as log:
                every = here.lines
                shop = NamespaceWorkshop(group=lanes.own().group)
                archive = zip_of(
                    tmp_path / "context.zip",
                    {"Dockerfile": step.encode(), "attack": attack_program(), "noise": noise},
                )
                options = BuildOptions(ACCOUNT, here.cache, shop)
                out = tmp_path / "out"
                with contextlib.suppress(BuildFailed):
                    await build_rootfs(archive, output_dir=out, log=log, options=options)
                log("error: told after all")
            await store.flush()
            start = 0
            while True:
                page = await store.read(target.group, target.stream, start)
                if not page.entries:
                    break
                every += [entry.text for entry in page.entries]
                start = page.next
        assert "0;xred \\u202eexe.txt 2J \ufffd\ufffd end" in every
        assert max(map(len, every)) <= 4096
        assert sum(map(len, every)) < LOG_LIMIT + (1 << 20)
        assert every[-1] == "error: told after all"

    run(tmp_path, test)


def test_groups_that_a_build_made_end_with_its_own(tmp_path: Path) -> None:
    """As crun makes them, and leaves them when it is killed."""
    hierarchies = find_hierarchies()
    group = Cgroup(hierarchies, lanes.own().group, "build-nested")
    group.create(Limits(256 << 20, 100))
    inner = [procs.parent / "outer" / "inner" for procs in group.procs_files]
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        for directory in inner:
            directory.mkdir(parents=True)
            (directory / "cgroup.procs").write_text(str(sleeper.pid))
        assert group.pids() == {sleeper.pid}
        assert group.kill(10)
        assert sleeper.wait() < 0
    group.remove()
    assert not any(procs.parent.exists() for procs in group.procs_files)
