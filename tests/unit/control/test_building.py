"""What a node is told of the first build of a version, and of a further one."""

from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.control.building import build_command, host_processor, key_of, new_build
from microvmd.messages.node import VersionKey
from microvmd.model.image import BuildState
from microvmd.model.rebuild import begun
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, plane

pytestmark = pytest.mark.anyio


async def test_a_further_build_is_made_from_the_snapshot_in_use(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        version = await p.images.version(ACCOUNT, IMAGE_ARN, "1.0")
        image = (await p.images.get(ACCOUNT, IMAGE_ARN)).image
        build = new_build(5.0)
        assert (build.architecture, build.chipset, build.chipset_generation) == host_processor()
        again = begun(version, build)
        first, second = await p.store.run(
            lambda tx: (
                build_command(tx, p.microvms.use, image, version, version.build),
                build_command(tx, p.microvms.use, image, again, build),
            )
        )
        own = VersionKey(ACCOUNT, "app", "1.0")
        assert (first.version, first.source) == (own, None)
        assert (second.version, second.source) == (replace(own, build=build.build_id), own)
        assert second.config == first.config
        assert second.log.stream == f"build/1.0/{build.build_id}"
        made = replace(again, rebuilds=(replace(build, state=BuildState.SUCCESSFUL),))
        assert (key_of(made), key_of(made, "")) == (second.version, own)
