"""A build in a throw-away microVM: jail, network, disks in and out, and nothing left behind."""

import asyncio
import contextlib
import dataclasses
import ipaddress
from pathlib import Path

import pytest

from microvmd.build.bases import BaseStore
from microvmd.build.builder import BuildOptions, build_rootfs
from microvmd.build.failure import BuildFailed
from microvmd.model.egress import NOTHING, Egress, Reach, grant_of
from tests import buildlab

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]


def test_a_dockerfile_becomes_a_root_file_system(tmp_path: Path) -> None:
    dockerfile = """FROM tiny AS make
RUN echo made > /made && id > /who
RUN cat /proc/sys/kernel/osrelease > /kernel
FROM tiny
WORKDIR /app
COPY --from=make /made /who /kernel ./
COPY app.sh .
EXPOSE 8080
CMD ["/bin/sh", "/app/app.sh"]
"""

    async def main() -> None:
        cache = buildlab.cache(tmp_path)
        await BaseStore(cache / "bases").add("tiny", buildlab.tiny_base(tmp_path))
        archive = buildlab.context(tmp_path, {"Dockerfile": dockerfile, "app.sh": "echo hi\n"})
        lines: list[str] = []
        async with buildlab.workshop(tmp_path) as shop:
            options = BuildOptions("000000000000", cache, shop, time_limit=280)
            out = tmp_path / "out"
            rootfs = await build_rootfs(archive, output_dir=out, log=lines.append, options=options)
            assert [path.name for path in out.iterdir()] == ["rootfs.erofs"]
            assert rootfs.config.argv == ("/bin/sh", "/app/app.sh")
            assert rootfs.config.exposed_ports == (8080,)
            root = buildlab.unpacked(rootfs.erofs, tmp_path)
            assert (root / "app/made").read_text() == "made\n"
            assert (root / "app/app.sh").read_text() == "echo hi\n"
            # The kernel that ran the step was the guest's.
            assert (root / "app/kernel").read_text().strip() == shop.kernel.release
            assert "booting the build machine" in lines

            failing = buildlab.context(tmp_path, {"Dockerfile": "FROM tiny\nRUN cat /missing\n"})
            with pytest.raises(BuildFailed, match=r"The container image build failed\."):
                await build_rootfs(failing, output_dir=out, log=lines.append, options=options)
            assert any("/missing: No such file" in line for line in lines)

    asyncio.run(main())


def test_a_build_keeps_to_its_egress_and_a_cancelled_one_leaves_no_machine(tmp_path: Path) -> None:
    async def main() -> None:
        cache = buildlab.cache(tmp_path)
        await BaseStore(cache / "bases").add("tiny", buildlab.tiny_base(tmp_path))
        archive = buildlab.context(
            tmp_path, {"Dockerfile": "FROM tiny\nRUN echo here && sleep 600\n"}
        )
        started = asyncio.Event()
        grant = grant_of("nc-1", 1)
        egress = Egress(reaches=(Reach(grant, ipaddress.IPv4Network("10.99.0.0/16")),))

        def log(line: str) -> None:
            if line == "here":
                started.set()

        async with buildlab.workshop(tmp_path) as shop, asyncio.TaskGroup() as tasks:
            options = BuildOptions("000000000000", cache, shop)
            work = tasks.create_task(
                build_rootfs(
                    archive, output_dir=tmp_path / "out", log=log, options=options, egress=egress
                )
            )
            async with asyncio.timeout(200):
                await started.wait()
            (network,) = shop.networks._used
            assert network.egress == egress
            await shop.networks.revoke({grant})
            assert network.egress == NOTHING
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            assert not list((tmp_path / "out").iterdir())

    asyncio.run(main())


def test_a_build_that_fills_its_disk_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        cache = buildlab.cache(tmp_path)
        await BaseStore(cache / "bases").add("tiny", buildlab.tiny_base(tmp_path))
        archive = buildlab.context(
            tmp_path, {"Dockerfile": "FROM tiny\nRUN cat /dev/zero > /big\n"}
        )
        lines: list[str] = []
        async with buildlab.workshop(tmp_path) as shop:
            small = dataclasses.replace(shop, disk_bytes=48 << 20)
            options = BuildOptions("000000000000", cache, small)
            with pytest.raises(BuildFailed, match="DISK_STORAGE_FULL"):
                await build_rootfs(
                    archive, output_dir=tmp_path / "out", log=lines.append, options=options
                )
        assert lines.count("booting the build machine") == 1
        assert not list((cache / "layers").rglob("store.ext4"))

    asyncio.run(main())
