"""The room of a node, asked over its socket, and what holds while there is none."""

import asyncio
from pathlib import Path

import pytest

from microvmd.messages.capacity import Measured
from microvmd.messages.node_requests import AskRoom, AskStored, Refused, RoomIs, StoredIs
from microvmd.model.capacity import Machine
from microvmd.node.channel import Channel
from microvmd.service.node_meter import MeterClient
from tests.nodemessages import ID
from tests.unit.service.test_node_client import ME, listening

pytestmark = pytest.mark.anyio

MACHINE = Machine(1000, 500, 2000, 900)


async def _answer(channel: Channel) -> None:
    match await channel.receive():
        case AskRoom():
            await channel.send(RoomIs(MACHINE, {ID: 45}))
        case AskStored():
            await channel.send(StoredIs(7))


async def _refuse(channel: Channel) -> None:
    await channel.receive()
    await channel.send(Refused("not now"))


async def test_the_last_answer_holds_while_there_is_no_node(tmp_path: Path) -> None:
    up = True
    meter = MeterClient(tmp_path / "n.sock", lambda: up)
    with pytest.raises(FileNotFoundError):
        meter.measure()
    async with listening(meter.path, _answer, frozenset({ME})):
        found = await asyncio.to_thread(meter.measure)
        assert found == Measured(MACHINE, {ID: 45})
        assert await asyncio.to_thread(meter.stored_mib, ID) == 7
    assert meter.measure() == found
    up = False
    assert meter.measure() == found
    assert meter.stored_mib(ID) == 0


async def test_another_answer_is_no_answer(tmp_path: Path) -> None:
    meter = MeterClient(tmp_path / "n.sock", lambda: True)
    async with listening(meter.path, _refuse, frozenset({ME})):
        with pytest.raises(OSError, match="not now"):
            await asyncio.to_thread(meter.measure)
