"""Builds of two accounts in namespaces, and a careless program in the place of ours.

In namespaces a build takes seconds, and what is shown is the same program inside as in a build
machine. An act is shown to work with its defence off: by a careless program in the place of ours
(``careless``), a limit that nobody keeps, a store that accounts share.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from microvmd.build import inside, toolchain
from microvmd.build.bases import BaseStore
from microvmd.build.builder import BuildOptions, Rootfs, build_rootfs
from microvmd.build.enclosure import Bind, Enclosure
from microvmd.build.failure import BuildFailed
from microvmd.build.in_namespace import NamespaceWorkshop
from microvmd.build.job import Job
from microvmd.build.layers import LayerLimits
from microvmd.build.workshop import Order
from microvmd.node.cgroup import Cgroup, find_hierarchies
from tests import buildlab, lanes
from tests.security.hostile import Canary, attack_program, zip_of

ACCOUNT, OTHER = "111111111111", "222222222222"
ATTACK = "FROM tiny\nCOPY attack /\n"


@dataclass
class Site:
    """Builds of two accounts, and what nobody of them may touch."""

    directory: Path
    cache: Path
    canary: Canary
    lines: list[str]

    async def build(
        self,
        dockerfile: str,
        files: Mapping[str, bytes] | None = None,
        shop: NamespaceWorkshop | None = None,
        *,
        account: str = ACCOUNT,
        limits: LayerLimits | None = None,
        time_limit: float = 120,
    ) -> Rootfs:
        every = {"Dockerfile": dockerfile.encode(), "attack": attack_program()} | dict(files or {})
        options = BuildOptions(
            account,
            self.cache,
            shop or NamespaceWorkshop(group=lanes.own().group),
            time_limit=time_limit,
            layer_limits=limits or LayerLimits(),
        )
        return await build_rootfs(
            zip_of(self.directory / "context.zip", every),
            output_dir=self.directory / "out",
            log=self.lines.append,
            options=options,
        )

    async def refused(self, dockerfile: str, files: Mapping[str, bytes] | None = None) -> str:
        """The reason of a build that fails, and its log."""
        self.lines.clear()
        with pytest.raises(BuildFailed) as caught:
            await self.build(dockerfile, files)
        return "\n".join([caught.value.reason, *self.lines])

    @property
    def log(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Careless(NamespaceWorkshop):
    """With another program inside of the builder, and volumes that every step gets."""

    program: str = inside.__file__
    volumes: tuple[str, ...] = ()

    def complete(self, job: Job) -> Job:
        return replace(job, volumes=self.volumes)

    async def _enclosure(self, order: Order, layers: Path, group: Cgroup) -> Enclosure:
        made = await NamespaceWorkshop._enclosure(self, order, layers, group)
        return replace(made, binds=(*made.binds, Bind(self.program, toolchain.INSIDE)))


def careless(directory: Path, *changes: tuple[str, str], volumes: tuple[str, ...] = ()) -> Careless:
    """As the program inside would be with these texts in the place of ours."""
    text = Path(inside.__file__).read_text()
    for ours, other in changes:
        assert text.count(ours) == 1, ours
        text = text.replace(ours, other)
    program = directory / "careless.py"
    program.write_text(text)
    return Careless(group=lanes.own().group, program=os.fspath(program), volumes=volumes)


@contextlib.asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    cache = buildlab.cache(directory)
    await BaseStore(cache / "bases").add("tiny", buildlab.tiny_base(directory))
    tools = await toolchain.prepare(cache, print)
    yield Site(directory, cache, Canary.make(directory, cache, tools.root), [])


def groups() -> set[Path]:
    """Control groups in this lane's: a run that was killed may have left some."""
    tops = [hierarchy.root / lanes.own().group for hierarchy in find_hierarchies()]
    return {path for top in tops for path in top.glob("*") if path.is_dir()}


def run(directory: Path, test: Callable[[Site], Awaitable[None]]) -> None:
    """Run it, and see that it has left everything else as it was."""

    async def main() -> None:
        async with site(directory) as made:
            await test(made)
            made.canary.check()
            out = directory / "out"
            assert not [path for path in out.glob("*") if path.name[0] == "."]
        assert groups() <= before

    before = groups()
    asyncio.run(main())
