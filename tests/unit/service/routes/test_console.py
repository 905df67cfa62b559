"""Links for whoever has a key; sessions for the operator alone."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.consolelab import OPERATOR, ConsoleLab, console_lab

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ConsoleLab]:
    async with console_lab(tmp_path) as found:
        yield found


async def test_the_operator_lists_and_ends_sessions(lab: ConsoleLab) -> None:
    ann, operator = await lab.logged_in(await lab.user("ann")), await lab.logged_in()
    found = (await lab.signed("GET", "/console/sessions")).json()["sessions"]
    assert [each["principal"].rpartition(":")[2] for each in found] == ["root", "user/ann"]
    assert not any("csrf" in each or "token" in each for each in found)
    number = found[1]["number"]
    assert (await lab.signed("DELETE", f"/console/sessions/{number}")).json() == {"ended": 1}
    assert (await ann.get("/sessions")).status_code == 303
    assert (await operator.get("/sessions")).status_code == 200
    assert (await lab.signed("DELETE", f"/console/sessions/{number}")).status_code == 404
    assert (await lab.signed("DELETE", "/console/sessions/all")).json() == {"ended": 1}
    assert (await operator.get("/sessions")).status_code == 303


async def test_nobody_else_does(lab: ConsoleLab) -> None:
    ann = await lab.user("ann")
    assert (await lab.signed("GET", "/console/sessions", ann)).status_code == 403
    assert (await lab.signed("DELETE", "/console/sessions/all", ann)).status_code == 403


async def test_a_link_is_as_strong_as_the_key_that_asks(lab: ConsoleLab) -> None:
    ann = await lab.user("ann")
    browser = lab.browser()
    path = await lab.link(ann)
    assert (await browser.post(path)).status_code == 303
    page = (await browser.get("/sessions")).text
    assert "user/ann" in page
    assert ":root" not in page


async def test_links_need_a_signature(lab: ConsoleLab) -> None:
    answer = await lab.browser().client.post("/microvmd/v1/console/links")
    assert answer.status_code == 403
    assert OPERATOR.access_key not in answer.text
