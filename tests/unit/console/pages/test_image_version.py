"""The log of a build as a page takes it: piece by piece, to its end, with what went wrong."""

import pytest

from microvmd.console.pages.image_version import LINES_SHOWN
from microvmd.messages.node import BuildFailed, BuildStarted, BuildVersion
from microvmd.messages.node_requests import LogLine
from tests.consolelab import ConsoleLab
from tests.unit.control.plane import ACCOUNT, CREATE

pytestmark = pytest.mark.anyio
PATH = "/images/app/versions/1.0"


async def _building(lab: ConsoleLab) -> BuildVersion:
    await lab.plane.images.create(ACCOUNT, CREATE)
    command = lab.plane.node.commands.pop()
    assert isinstance(command, BuildVersion)
    await lab.plane.images.report(BuildStarted(command.version, command.build_id))
    return command


def _log(lab: ConsoleLab, *messages: str) -> None:
    lab.logged.extend(LogLine(1000.0, "s", message) for message in messages)


async def test_lines_come_once_and_the_page_asks_until_the_end(lab: ConsoleLab) -> None:
    command = await _building(lab)
    browser = await lab.logged_in()
    assert f'hx-get="/console{PATH}/log?after=0"' in (await browser.get(PATH)).text
    _log(lab, "fetching s3://bucket/app.zip", "STEP 1/2: FROM x", "<b>bold</b>")
    first = (await browser.get(f"{PATH}/log?after=0")).text
    assert "&lt;b&gt;bold" in first
    assert "log?after=3" in first
    assert 'hx-swap-oob="true"' in first
    assert 'max="2" value="1"' in first
    _log(lab, "error: it failed")
    reason = "CONTAINER_BUILD_FAILED: The application ended with code 1 before it was ready."
    await lab.plane.images.report(BuildFailed(command.version, command.build_id, reason))
    last = (await browser.get(f"{PATH}/log?after=3")).text
    assert "bold" not in last
    assert "error: it failed" in last
    assert reason in last
    assert "its last lines below say why" in last
    assert "hx-trigger" not in last, "nothing more will come"


async def test_a_long_log_comes_at_once_and_within_bounds(lab: ConsoleLab) -> None:
    command = await _building(lab)
    _log(lab, *(f"line {number}." for number in range(LINES_SHOWN + 10)))
    await lab.plane.images.report(BuildFailed(command.version, command.build_id, "x"))
    browser = await lab.logged_in()
    page = (await browser.get(PATH)).text
    assert f"line {LINES_SHOWN - 1}." in page
    assert f"line {LINES_SHOWN}." not in page
    assert "microvmd logs has all of it" in page
    assert "/log?after" not in page
    rest = (await browser.get(f"{PATH}/log?after={LINES_SHOWN - 10}")).text
    assert f"line {LINES_SHOWN - 10}." in rest
    assert f"line {LINES_SHOWN - 11}." not in rest
    assert "hx-trigger" not in rest


async def test_who_may_not_read_logs_sees_the_rest(lab: ConsoleLab) -> None:
    await _building(lab)
    _log(lab, "a secret")
    policy = (
        '{"Version": "2012-10-17", "Statement": '
        '[{"Effect": "Allow", "Action": "lambda:*", "Resource": "*"}]}'
    )
    browser = await lab.logged_in(await lab.user("ann", policy))
    page = (await browser.get(PATH)).text
    assert "Wait until it is ready" in page
    assert "logs:GetLogEvents" in page
    assert "a secret" not in page
    assert "has logged nothing" not in page


async def test_nonsense_begins_at_the_begin(lab: ConsoleLab) -> None:
    await _building(lab)
    _log(lab, "one")
    browser = await lab.logged_in()
    for after in ("", "-1", "x", "9" * 30):
        assert "one" in (await browser.get(f"{PATH}/log?after={after}")).text
    assert (await browser.get("/images/app/versions/9.9/log")).status_code == 404
    assert (await browser.get("/images/app/versions/9.9")).status_code == 404
