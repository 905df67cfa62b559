"""The typed requests of the guest client, and answers that are malformed."""

from pathlib import Path
from typing import Any

import pytest

from microvmd.messages.guest import Frame, FrameKind, json_frame
from microvmd.model.hooks import HookAnswer
from microvmd.node.guest import Exit, GuestError, GuestGone
from tests.unit.node.guest_player import Agent, answering, guest_of

pytestmark = pytest.mark.anyio


async def test_answers_become_values(tmp_path: Path) -> None:
    async with guest_of(tmp_path, answering({"result": {"status": 503}})) as guest:
        assert await guest.hook("ready", 9000, timeout_s=1) == HookAnswer(503)
    async with guest_of(tmp_path, answering({"result": {"error": "refused"}})) as guest:
        assert await guest.hook("run", 9000, timeout_s=1) == HookAnswer(None, "refused")
    async with guest_of(tmp_path, answering({"result": {"ports": [80, 8080]}})) as guest:
        assert await guest.listening() == {80, 8080}
    refusal = {"failure": {"code": "busy", "message": "it runs"}}
    async with guest_of(tmp_path, answering(refusal)) as guest:
        with pytest.raises(GuestError, match="it runs"):
            await guest.start(["x"])


@pytest.mark.parametrize(
    "answer",
    [{}, {"result": []}, {"result": {"ports": "x"}}, {"failure": {"code": 1, "message": "x"}}],
)
async def test_malformed_answers_are_the_end_of_trust(
    tmp_path: Path, answer: dict[str, Any]
) -> None:
    async with guest_of(tmp_path, answering(answer)) as guest:
        with pytest.raises(GuestGone):
            await guest.listening()


async def test_run_collects_output_that_comes_with_the_reply(tmp_path: Path) -> None:
    async def play(agent: Agent) -> None:
        request = await agent.receive()
        stream = request.stream
        agent.reply(request, {"result": {"pid": 5}})
        agent.send(Frame(FrameKind.DATA, stream, b"out").encode())
        agent.send(Frame(FrameKind.DATA, stream | 1 << 31, b"error").encode())
        given = b""
        while frame := await agent.receive():
            if frame.kind is FrameKind.DATA and not frame.payload:
                break
            given += frame.payload if frame.kind is FrameKind.DATA else b""
        assert given == b"input"
        end = {"code": 0, "signal": None}
        agent.send(json_frame(FrameKind.CLOSE, stream, end).encode())

    async with guest_of(tmp_path, play) as guest:
        done = await guest.run(["x"], input=b"input", user="app")
    assert (done.exit, done.stdout, done.stderr) == (Exit(0, None), b"out", b"error")
