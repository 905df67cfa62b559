"""Builds in namespaces: real Dockerfiles, real buildah, and nothing left behind."""

import asyncio
import contextlib
import os
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from microvmd.build.bases import BaseStore
from microvmd.build.builder import BuildOptions, Rootfs, build_rootfs
from microvmd.build.failure import BuildFailed
from microvmd.build.in_namespace import NamespaceWorkshop
from tests import buildlab, lanes

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(280)]


class Lab:
    """One test's cache, with what was logged."""

    def __init__(self, directory: Path, *shared: str) -> None:
        self.directory = directory
        self.cache = buildlab.cache(directory, shared=("builder", *shared))
        self.lines: list[str] = []

    def options(self, **changes: object) -> BuildOptions:
        plain = BuildOptions("000000000000", self.cache, NamespaceWorkshop(group=lanes.own().group))
        values = {name: getattr(plain, name) for name in BuildOptions.__slots__}
        return BuildOptions(**(values | changes))

    async def with_base(self) -> "Lab":
        await BaseStore(self.cache / "bases").add("tiny", buildlab.tiny_base(self.directory))
        return self

    async def build(
        self, files: Mapping[str, str | bytes], options: BuildOptions | None = None
    ) -> Rootfs:
        archive = await asyncio.to_thread(buildlab.context, self.directory, files)
        return await build_rootfs(
            archive,
            output_dir=self.directory / "out",
            log=self.lines.append,
            options=options or self.options(),
        )

    @property
    def log(self) -> str:
        return "\n".join(self.lines)


def test_from_scratch_with_a_static_program(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    dockerfile = 'FROM scratch\nCOPY hello /hello\nENTRYPOINT ["/hello"]\nUSER 1000:1000\n'
    files: dict[str, str | bytes] = {"Dockerfile": dockerfile}
    files |= {"hello": buildlab.static_program(tmp_path)}
    rootfs = asyncio.run(lab.build(files))
    assert rootfs.config.argv == ("/hello",)
    assert rootfs.config.user == "1000:1000"
    assert rootfs.size == rootfs.erofs.stat().st_size
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rootfs.erofs"]
    assert os.listdir(buildlab.unpacked(rootfs.erofs, tmp_path)) == ["hello"]


def test_stages_heredocs_metadata_and_the_layer_cache(tmp_path: Path) -> None:
    dockerfile = """FROM --platform=linux/s390x tiny AS make
RUN <<EOF
set -e
cat data.txt > /made 2> /dev/null || echo none > /made
id > /who
EOF
FROM tiny
ENV GREETING=hello
WORKDIR /app
COPY --from=make /made /who ./
COPY <<config /etc/app.conf
answer=42
config
COPY --chown=1001:1001 src/ ./src/
RUN echo "$GREETING" > said
EXPOSE 9000 53/udp
VOLUME /data
LABEL owner=me
STOPSIGNAL SIGINT
CMD ["/bin/sh", "-c", "echo run"]
"""

    async def main() -> None:
        lab = await Lab(tmp_path).with_base()
        files: dict[str, str | bytes] = {"Dockerfile": dockerfile, "src/a.txt": "one\n"}
        first = await lab.build(files)
        content = first.erofs.read_bytes()
        root = buildlab.unpacked(first.erofs, tmp_path)
        assert (root / "app/said").read_text() == "hello\n"
        assert (root / "app/who").read_text().startswith("uid=0")
        assert (root / "etc/app.conf").read_text() == "answer=42\n"
        assert (root / "app/src/a.txt").stat().st_uid == 1001
        assert (root / "data").is_dir()
        assert not (root / "etc/resolv.conf").exists()
        assert not (root / "etc/hostname").exists()
        config = first.config
        assert (config.exposed_ports, config.volumes) == ((9000,), ("/data",))
        assert (config.working_dir, config.stop_signal) == ("/app", "SIGINT")
        assert config.labels["owner"] == "me"
        assert "GREETING=hello" in config.env
        assert "asks for linux/s390x" in lab.log

        lab.lines.clear()
        again = await lab.build(files)
        assert again.erofs.read_bytes() == content
        assert lab.log.count("Using cache") >= 6

    asyncio.run(main())


def test_a_failing_step_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        lab = await Lab(tmp_path).with_base()
        with pytest.raises(BuildFailed) as caught:
            await lab.build({"Dockerfile": "FROM tiny\nRUN echo before && cat /missing\n"})
        assert caught.value.code == "CONTAINER_BUILD_FAILED"
        assert caught.value.reason == "The container image build failed."
        assert "before" in lab.log
        assert "/missing: No such file" in lab.log
        assert not list((tmp_path / "out").iterdir())

    asyncio.run(main())


def test_an_unknown_base_is_told_up_front(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with pytest.raises(BuildFailed, match=r"microvmd base alias python:3\.11-slim"):
        asyncio.run(lab.build({"Dockerfile": "FROM python:3.11-slim\n"}))


def test_an_alias_moves_and_the_next_build_sees_it(tmp_path: Path) -> None:
    async def main() -> None:
        lab = await Lab(tmp_path).with_base()
        store = BaseStore(lab.cache / "bases")
        files: dict[str, str | bytes] = {"Dockerfile": "FROM python:3.11-slim\nRUN echo x > /x\n"}
        await store.alias("python:3.11-slim", "tiny")
        await lab.build(files)
        mark = tmp_path / "mark"
        mark.mkdir()
        (mark / "other").write_text("x")
        tar = buildlab.tiny_base(mark)
        with tarfile.open(tar, "a") as archive:
            archive.add(mark / "other", arcname="other-base")
        await store.add("other", tar)
        await store.alias("python:3.11-slim", "other")
        rootfs = await lab.build(files)
        assert (buildlab.unpacked(rootfs.erofs, tmp_path) / "other-base").exists()

    asyncio.run(main())


def test_a_run_step_cannot_see_the_node(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the node's")
    dockerfile = f"""FROM tiny
RUN ! cat {secret}
RUN ! cat /build/archive.zip
RUN cat /proc/1/cmdline > /first
RUN for name in /dev/*; do test ! -b "$name" || exit 1; done
"""

    async def main() -> None:
        lab = await Lab(tmp_path).with_base()
        rootfs = await lab.build({"Dockerfile": dockerfile})
        first = (buildlab.unpacked(rootfs.erofs, tmp_path) / "first").read_text()
        assert first.startswith("/bin/sh")

    asyncio.run(main())


def test_a_cancelled_build_ends_at_once_with_everything(tmp_path: Path) -> None:
    async def main() -> None:
        lab = await Lab(tmp_path).with_base()
        started = asyncio.Event()

        def log(line: str) -> None:
            if line == "here":
                started.set()

        archive = buildlab.context(
            tmp_path, {"Dockerfile": "FROM tiny\nRUN echo here && sleep 600\n"}
        )
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(
                build_rootfs(archive, output_dir=tmp_path / "out", log=log, options=lab.options())
            )
            async with asyncio.timeout(60):
                await started.wait()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        assert not list((tmp_path / "out").iterdir())
        # The store is free and whole: the next build works.
        await lab.build({"Dockerfile": "FROM tiny\nRUN echo x > /x\n"})

    asyncio.run(main())


def test_a_build_has_a_time_limit(tmp_path: Path) -> None:
    async def main() -> None:
        lab = await Lab(tmp_path).with_base()
        with pytest.raises(BuildFailed, match="took over 3 seconds"):
            await lab.build(
                {"Dockerfile": "FROM tiny\nRUN sleep 600\n"}, lab.options(time_limit=3.0)
            )

    asyncio.run(main())


def test_two_builds_of_an_account_wait_for_one_another(tmp_path: Path) -> None:
    async def main() -> None:
        lab = await Lab(tmp_path).with_base()
        lines: list[list[str]] = [[], []]
        archive = buildlab.context(tmp_path, {"Dockerfile": "FROM tiny\nRUN sleep 1\n"})
        async with asyncio.TaskGroup() as tasks:
            for number in (0, 1):
                tasks.create_task(
                    build_rootfs(
                        archive,
                        output_dir=tmp_path / f"out{number}",
                        log=lines[number].append,
                        options=lab.options(),
                    )
                )
        waited = [any("waiting for another build" in line for line in one) for one in lines]
        assert sorted(waited) == [False, True]

    asyncio.run(main())


def test_pip_works_behind_the_operators_certificates(tmp_path: Path) -> None:
    """The base that the examples use, and a package from the registry."""
    dockerfile = """FROM microvmd/python:3
RUN pip install flask
RUN python3 -c 'import flask, os; os.stat("/run/build-ca/ca.crt")'
CMD ["python", "-m", "flask"]
"""
    lab = Lab(tmp_path, "bases")
    options = lab.options(ca_bundle=Path("/etc/ssl/certs/ca-certificates.crt"))
    rootfs = asyncio.run(lab.build({"Dockerfile": dockerfile}, options))
    root = buildlab.unpacked(rootfs.erofs, tmp_path)
    assert list(root.glob("usr/local/lib/python3*/dist-packages/flask/app.py"))
    assert not (root / "etc/pip.conf").exists()
    assert not (root / "run/build-ca").exists()
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
