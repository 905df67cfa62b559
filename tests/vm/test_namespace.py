"""Namespaces come and go by their mounts, and the visiting thread always comes back."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from microvmd.node import namespace
from microvmd.node.namespace import Visitor

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


def here(found: list[str]) -> None:
    found.append(os.readlink("/proc/thread-self/ns/net"))


def test_a_visit_is_inside_and_the_thread_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[str] = []
        paths = [tmp_path / "one", tmp_path / "two"]
        with Visitor() as visitor:
            for path in paths:
                await visitor.make(path, lambda: here(seen))
                await visitor.inside(path, lambda: here(seen))
            own: list[str] = []
            here(own)
            assert seen[0] == seen[1] != seen[2] == seen[3]
            assert own[0] not in seen
        for path in paths:
            assert namespace.is_live(path)
            namespace.destroy(path)
            assert not path.exists()

    asyncio.run(main())


def test_what_fails_inside_is_raised_and_the_next_visit_works(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[str] = []
        with Visitor() as visitor:
            await visitor.make(tmp_path / "one", lambda: here(seen))
            with pytest.raises(ZeroDivisionError):
                await visitor.inside(tmp_path / "one", lambda: print(1 // 0))  # noqa: T201
            await visitor.inside(tmp_path / "one", lambda: here(seen))
            assert seen[0] == seen[1]
        namespace.destroy(tmp_path / "one")

    asyncio.run(main())


def test_a_creation_that_fails_leaves_no_mount(tmp_path: Path) -> None:
    async def main() -> None:
        with Visitor() as visitor:
            with pytest.raises(ZeroDivisionError):
                await visitor.make(tmp_path / "one", lambda: print(1 // 0))  # noqa: T201
            with pytest.raises(FileNotFoundError):
                await visitor.make(tmp_path / "no" / "directory", lambda: None)

    asyncio.run(main())
    assert not list(tmp_path.iterdir())


def test_a_second_namespace_on_the_same_path_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with Visitor() as visitor:
            await visitor.make(tmp_path / "one", lambda: None)
            with pytest.raises(FileExistsError):
                await visitor.make(tmp_path / "one", lambda: None)
            assert namespace.is_live(tmp_path / "one")

    asyncio.run(main())
    namespace.destroy(tmp_path / "one")


def test_a_cancelled_caller_waits_for_the_thread(tmp_path: Path) -> None:
    made: list[str] = []

    async def main() -> None:
        with Visitor() as visitor:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(visitor.make(tmp_path / "one", lambda: here(made)))
                await asyncio.sleep(0)
                task.cancel()
            assert task.cancelled()
            assert made
            assert namespace.is_live(tmp_path / "one")

    asyncio.run(main())
    namespace.destroy(tmp_path / "one")


def test_a_plain_file_is_not_live_and_destroy_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "left"
    path.touch()

    assert not namespace.is_live(path)
    namespace.destroy(path)
    namespace.destroy(path)
    assert not path.exists()


def test_a_tap_is_in_its_namespace_only(tmp_path: Path) -> None:
    name = "nstap0"
    taps: list[int] = []
    inside: list[bool] = []

    def prepare() -> None:
        taps.append(namespace.make_tap(name))
        inside.append(namespace.exists(name))

    async def main() -> None:
        with Visitor() as visitor:
            await visitor.make(tmp_path / "one", prepare)

    asyncio.run(main())
    try:
        assert inside == [True]
        assert not namespace.exists(name)
        assert name not in [interface for _, interface in socket.if_nameindex()]
    finally:
        os.close(taps[0])
        namespace.destroy(tmp_path / "one")
