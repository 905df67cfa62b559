"""The log of a build ends with the build, and does not hide why it ended."""

import asyncio
from pathlib import Path

import pytest

from microvmd.build.failure import BuildFailed
from microvmd.build.log import build_log
from microvmd.messages.node import LogTarget
from microvmd.node.logs import LogStore

TARGET = LogTarget("/aws/lambda-microvms/app", "build/1.0/one")


async def _failing(store: LogStore) -> None:
    async with build_log(store, TARGET) as log:
        log("a line")
        raise BuildFailed("CONTAINER_BUILD_FAILED", "went wrong")


def test_a_failure_keeps_its_type_and_all_lines_are_stored(tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with LogStore(tmp_path) as store:
            with pytest.raises(BuildFailed, match="went wrong"):
                await _failing(store)
            await store.flush()
            page = await store.read(TARGET.group, TARGET.stream)
            return [entry.text for entry in page.entries]

    assert asyncio.run(main()) == ["a line"]
