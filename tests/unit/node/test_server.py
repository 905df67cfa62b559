"""Who is let in and what is told; all else runs against a real node in tests/security."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from microvmd.messages.node import Died, Suspended
from microvmd.messages.node_requests import AskVmm, OpenControl, Refused
from microvmd.messages.node_rules import LONGEST_REASON
from microvmd.messages.node_wire import FROM_NODE, TO_NODE
from microvmd.node.channel import dial
from microvmd.node.server import _clipped, accepting, pss_of, refuse_all
from tests.nodemessages import ID

pytestmark = pytest.mark.anyio

ME = frozenset({os.geteuid()})


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


async def test_a_node_that_cannot_start_tells_everybody(tmp_path: Path) -> None:
    path = tmp_path / "n.sock"
    with _listener(path) as listener:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(refuse_all(listener, ME, "no kernel"))
            for request in (AskVmm(ID), OpenControl()):
                channel = await dial(path, incoming=FROM_NODE, outgoing=TO_NODE)
                await channel.send(request)
                assert await channel.receive() == Refused("no kernel")
                channel.close()


async def test_a_fault_is_named_and_ends_its_connection_only(tmp_path: Path) -> None:
    path = tmp_path / "n.sock"

    async def answer(channel: object) -> None:
        await channel.gone()  # type: ignore[attr-defined]

    with _listener(path) as listener:
        async with asyncio.timeout(20), accepting(listener, ME, answer):
            for _ in range(2):
                channel = await dial(path, incoming=FROM_NODE, outgoing=TO_NODE)
                await channel.send(OpenControl())
                assert await channel.receive() == Refused("nothing may come here")
                assert await channel.receive() is None
                channel.close()


def test_reasons_from_anywhere_fit_into_a_frame() -> None:
    report = Died(ID, 1, "\udcff" + "x" * 2 * LONGEST_REASON)
    assert FROM_NODE.encode(_clipped(report))
    assert _clipped(Suspended(ID, 1)) == Suspended(ID, 1)


def test_memory_of_a_process() -> None:
    found = pss_of(os.getpid())
    assert found is not None
    assert found > 1 << 20
    assert pss_of(2**30) is None
