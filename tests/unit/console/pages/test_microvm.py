"""The page of one MicroVM: facts, cost, charts, log, tokens, and what can be done to it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from microvmd.console.pages.microvm import TOKEN_MINUTES
from microvmd.messages.node_requests import LogLine
from tests.consolelab import ConsoleLab, console_lab
from tests.unit.console.pages.test_microvms import started

pytestmark = pytest.mark.anyio

HOSTILE = "</pre><script>alert(1)</script>\n\ndata: x"


async def lines(group: str, stream: str | None, *, follow: bool) -> AsyncGenerator[LogLine, None]:
    """Two lines of a log that is not followed."""
    assert not follow
    yield LogLine(1000.5, stream or "", "first")
    yield LogLine(1001.5, stream or "", HOSTILE)


async def test_facts_and_cost(lab: ConsoleLab) -> None:
    (name,) = await started(lab)
    browser = await lab.logged_in()
    page = await browser.get(f"/microvm/{name}")
    assert page.status_code == 200
    for text in (name, "Snapshots and cost", "USD an hour", "HTTP_INGRESS", "none yet"):
        assert text in page.text
    assert "Terminal" not in page.text, "it was run without SHELL_INGRESS"
    part = await browser.get(f"/microvm/{name}/summary", **{"hx-request": "true"})
    assert "<html" not in part.text
    assert (await browser.get("/microvm/microvm-none")).status_code == 404


async def test_who_may_not_read_usage_sees_the_rest(lab: ConsoleLab) -> None:
    (name,) = await started(lab)
    policy = (
        '{"Version": "2012-10-17", "Statement": '
        '[{"Effect": "Allow", "Action": "lambda:*", "Resource": "*"}]}'
    )
    browser = await lab.logged_in(await lab.user("ann", policy))
    page = (await browser.get(f"/microvm/{name}")).text
    assert "Image snapshot" in page
    assert "an hour" not in page


async def test_samples_and_states(lab: ConsoleLab) -> None:
    (name,) = await started(lab)
    browser = await lab.logged_in()
    found = (await browser.get(f"/microvm/{name}/samples?after=0&states=yes")).json()
    assert found["samples"] == []
    assert found["row"]["state"] == "RUNNING"
    assert found["lives"] is True
    assert [state for _, state in found["states"]] == ["PENDING", "RUNNING"]
    later = (await browser.get(f"/microvm/{name}/samples?version={found['version']}")).json()
    assert (later["row"], later["lives"], later["states"]) == (None, None, None)


@pytest.mark.parametrize(
    ("action", "state"), [("suspend", "SUSPENDING"), ("terminate", "TERMINATING")]
)
async def test_actions(lab: ConsoleLab, action: str, state: str) -> None:
    (name,) = await started(lab)
    browser = await lab.logged_in()
    answer = await browser.post(f"/microvm/{name}/do/{action}")
    assert answer.headers["location"] == f"/console/microvm/{name}"
    assert [one.state.value for one in lab.plane.microvms.live()] == [state]
    assert (await browser.post(f"/microvm/{name}/do/explode")).status_code == 404


async def test_a_token_is_in_its_answer_only(lab: ConsoleLab) -> None:
    (name,) = await started(lab)
    browser = await lab.logged_in()
    part = await browser.post(f"/microvm/{name}/token", {"port": "9000"})
    assert part.status_code == 200
    assert "X-aws-proxy-auth: ey" in part.text
    assert "X-aws-proxy-port: 9000" in part.text
    assert f"{TOKEN_MINUTES} minutes" in part.text
    assert part.headers["cache-control"] == "no-store"
    assert "X-aws-proxy-auth: ey" not in (await browser.get(f"/microvm/{name}")).text
    assert (await browser.post(f"/microvm/{name}/token", {"port": "9x"})).status_code == 400


async def test_a_log_line_cannot_leave_its_event(tmp_path: Path) -> None:
    async with console_lab(tmp_path, lines=lines) as lab:
        (name,) = await started(lab)
        browser = await lab.logged_in()
        answer = await browser.get(f"/microvm/{name}/log?follow=false")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [event for event in answer.text.split("\n\n") if event]
        assert [event.splitlines()[0] for event in events] == [
            "retry: 500",
            "id: 1000.5",
            "id: 1001.5",
            "event: end",
        ]
        again = await browser.get(
            f"/microvm/{name}/log?follow=false", **{"last-event-id": "1000.5"}
        )
        assert "first" not in again.text
        assert "alert(1)" in again.text
        wrong = await browser.get(f"/microvm/{name}/log", **{"last-event-id": "x"})
        assert wrong.status_code == 400
