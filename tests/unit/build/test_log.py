"""The log of a build ends with the build, and does not hide why it ended."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from microvmd.build.failure import BuildFailed
from microvmd.build.log import build_log
from microvmd.messages.node import LogTarget
from microvmd.node import output
from microvmd.node.guest_streams import STDOUT, LogQueue
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


@dataclass
class Guest:
    """One that prints."""

    logs: LogQueue = field(default_factory=LogQueue)


def test_an_application_that_floods_is_read_at_a_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it prints beyond that waits, and is lost where that is too much."""
    monkeypatch.setattr(output, "RATE", 1)
    flood = b"\n" * 50_000

    async def main() -> None:
        guest = Guest()
        async with (
            LogStore(tmp_path) as store,
            build_log(store, TARGET) as log,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(log.follow(guest))
            for _ in range(3):
                guest.logs.put(STDOUT, flood)
                for _ in range(100):
                    await asyncio.sleep(0)
            assert len(guest.logs._chunks) == 1, "two are more than the burst"
            guest.logs.end()
        page = await store.read(TARGET.group, TARGET.stream)
        assert page.entries

    asyncio.run(main())
