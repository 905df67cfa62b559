"""What a guest's refusals and its end mean for a shell."""

from pathlib import Path
from typing import Any

import pytest

from microvmd.messages.guest import Frame, FrameKind, json_payload
from microvmd.messages.shell import ShellEnd, ShellEnded
from microvmd.node.shell import Shells
from tests.unit.node.guest_player import Agent, answering, guest_of

pytestmark = pytest.mark.anyio


async def _opens(agent: Agent) -> None:
    request = await agent.receive()
    assert json_payload(request) == {"op": "shell", "rows": 0, "cols": 0}
    agent.reply(request, {"result": {"pid": 7}})
    agent.send(Frame(FrameKind.DATA, request.stream, b"$ ").encode())


def _failure(code: str) -> dict[str, Any]:
    return {"failure": {"code": code, "message": "no"}}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("busy", ShellEnd.TOO_MANY),
        ("unknown_op", ShellEnd.OLD_IMAGE),
        ("start_failed", ShellEnd.NO_SHELL),
        ("anything", ShellEnd.NO_SHELL),
    ],
)
async def test_refusals(tmp_path: Path, code: str, why: ShellEnd) -> None:
    async with guest_of(tmp_path, answering(_failure(code))) as guest:
        shells = Shells()
        shells.begin(guest)
        with pytest.raises(ShellEnded) as refused:
            await shells.open().__aenter__()
        assert refused.value.why is why


async def test_the_first_reason_counts(tmp_path: Path) -> None:
    shells = Shells()
    async with guest_of(tmp_path, _opens) as guest:
        with shells.ending():
            shells.begin(guest)
            async with shells.open() as terminal:
                assert await terminal.read() == b"$ "
                shells.end(ShellEnd.SUSPENDED)
                shells.end(ShellEnd.TERMINATED)
                for use in (terminal.read(), terminal.resize(1, 1)):
                    with pytest.raises(ShellEnded) as ended:
                        await use
                    assert ended.value.why is ShellEnd.SUSPENDED
        with pytest.raises(ShellEnded) as refused:
            await shells.open().__aenter__()
        assert refused.value.why is ShellEnd.SUSPENDED


async def test_a_guest_that_vanishes(tmp_path: Path) -> None:
    async def play(agent: Agent) -> None:
        await _opens(agent)
        agent.send(b"no frame at all")

    async with guest_of(tmp_path, play) as guest:
        shells = Shells()
        shells.begin(guest)
        async with shells.open() as terminal:
            assert await terminal.read() == b"$ "
            with pytest.raises(ShellEnded) as ended:
                await terminal.read()
            assert ended.value.why is ShellEnd.LOST
