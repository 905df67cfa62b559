"""Each sees the own sessions, the operator all."""

import pytest

from tests.consolelab import ConsoleLab

pytestmark = pytest.mark.anyio


async def test_the_operator_ends_another_session(lab: ConsoleLab) -> None:
    ann = await lab.logged_in(await lab.user("ann"))
    operator = await lab.logged_in()
    own = (await ann.get("/sessions")).text
    assert "user/ann" in own
    assert ":root" not in own
    every = (await operator.get("/sessions")).text
    assert "user/ann" in every
    number = own.split("/console/sessions/")[1].split("/end")[0]
    answer = await operator.post(f"/sessions/{number}/end")
    assert answer.headers["location"] == "/console/sessions"
    assert (await ann.get("/sessions")).status_code == 303
    told = (await operator.get("/sessions")).text
    assert "The session has ended." in told
    assert "The session has ended." not in (await operator.get("/sessions")).text


async def test_others_cannot_end_what_they_do_not_see(lab: ConsoleLab) -> None:
    operator = await lab.logged_in()
    number = (await operator.get("/sessions")).text.split("/console/sessions/")[1].split("/end")[0]
    ann = await lab.logged_in(await lab.user("ann"))
    assert (await ann.post(f"/sessions/{number}/end")).status_code == 404
    assert (await operator.get("/sessions")).status_code == 200


async def test_ending_the_own_session_is_a_logout(lab: ConsoleLab) -> None:
    operator = await lab.logged_in()
    number = (await operator.get("/sessions")).text.split("/console/sessions/")[1].split("/end")[0]
    answer = await operator.post(f"/sessions/{number}/end")
    assert answer.headers["location"] == "/console/login"


async def test_a_browser_that_calls_itself_a_script(lab: ConsoleLab) -> None:
    browser = lab.browser()
    browser.client.headers["user-agent"] = '<script>alert("x")</script>'
    await browser.log_in("AKIAOPERATOR", "the-secret-of-the-operator")
    page = (await browser.get("/sessions")).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
