"""What an application prints is kept from its first moment to its last, whatever ends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.messages.node import MicrovmSpec
from microvmd.node import output as output_module
from microvmd.node.guest_streams import LogQueue
from microvmd.node.logs import LogStore
from microvmd.node.output import output_kept
from tests.nodelab import spec_of
from tests.unit.node.test_delivery import LOG, TO, World, world

pytestmark = pytest.mark.anyio

STDOUT = 1


class Failed(Exception):
    """What ends a MicroVM."""


def spec() -> MicrovmSpec:
    return replace(spec_of(), log=LOG, delivery=TO)


@asynccontextmanager
async def kept(w: World, output: LogQueue) -> AsyncIterator[None]:
    made = spec()
    with w.roles.session(TO.role_arn, made.microvm_id) as role:
        async with output_kept(output, made, w.store, w.deliveries, role):
            yield


async def fail(w: World, output: LogQueue) -> None:
    async with kept(w, output):
        output.put(STDOUT, b"why\n")
        raise Failed


async def lines(store: LogStore) -> list[str]:
    await store.flush()
    return [entry.text for entry in (await store.read(LOG.group, LOG.stream)).entries]


async def test_all_of_it_is_kept_and_delivered(tmp_path: Path) -> None:
    output = LogQueue()
    output.put(STDOUT, b"before\n")
    async with world(tmp_path) as w:
        async with kept(w, output):
            output.put(STDOUT, b"first\nunen")
            output.put(STDOUT, b"ded")
        assert await lines(w.store) == ["before", "first", "unended"]
        await w.settled()
        assert w.sink.lines == ["before", "first", "unended"]


async def test_a_flood_is_kept_at_a_pace_and_its_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "RATE", 1)
    monkeypatch.setattr(output_module, "BURST", 1)
    output = LogQueue()
    async with world(tmp_path) as w, asyncio.timeout(20):
        async with kept(w, output):
            for number in range(3):
                output.put(STDOUT, b"line %d\n" % number)
            kept_lines = w.store.follow(LOG.group, LOG.stream)
            assert (await anext(kept_lines)).text == "line 0"
            await kept_lines.aclose()
            assert await lines(w.store) == ["line 0"]
        assert await lines(w.store) == ["line 0", "line 1", "line 2"]


async def test_its_last_words_when_it_fails(tmp_path: Path) -> None:
    output = LogQueue()
    async with world(tmp_path) as w:
        with pytest.raises(Failed):
            await fail(w, output)
        assert await lines(w.store) == ["why"]


async def test_a_cancelled_microvm_leaves_its_log_at_once(tmp_path: Path) -> None:
    output, begun = LogQueue(), asyncio.Event()

    async def live(w: World) -> None:
        async with kept(w, output):
            output.put(STDOUT, b"running\n")
            begun.set()
            await asyncio.Event().wait()

    async with world(tmp_path) as w, asyncio.timeout(5):
        async with asyncio.TaskGroup() as tasks:
            living = tasks.create_task(live(w))
            await begun.wait()
            living.cancel()
        assert await lines(w.store) == ["running"]
