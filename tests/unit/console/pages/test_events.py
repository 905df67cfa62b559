"""Events and calls: the newest first, as they come, each account's own, and all text."""

import asyncio

import pytest

from microvmd.control.acting import acting
from microvmd.model.event import Actor, ActorKind
from tests.consolelab import Browser, ConsoleLab
from tests.unit.console.pages.test_microvms import started
from tests.unit.control.plane import ACCOUNT, CREATE

pytestmark = pytest.mark.anyio

LIVE = {"hx-request": "true"}


async def shown(browser: Browser, path: str, text: str) -> str:
    """The page once it has the text: a thread of its own writes what was called."""
    async with asyncio.timeout(30):
        while text not in (page := (await browser.get(path)).text):
            pass
    return page


async def test_what_happened(lab: ConsoleLab) -> None:
    (microvm,) = await started(lab)
    browser = await lab.logged_in()
    page = (await browser.get("/events")).text
    assert page.index("RUNNING") < page.index("SUCCESSFUL")
    own = (await browser.get(f"/events?resource={microvm}")).text
    assert microvm in own
    assert "CREATED" not in own
    images = (await browser.get("/events?kind=MicroVM+Image")).text
    assert microvm not in images


async def test_only_what_is_new_is_sent(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    assert "Nothing happened yet" in (await browser.get("/events/rows?newest=x", **LIVE)).text
    assert (await browser.get("/events/rows?newest=", **LIVE)).status_code == 204
    await started(lab)
    rows = (await browser.get("/events/rows?newest=", **LIVE)).text
    newest = rows.split('name="newest" value="')[1].split('"')[0]
    assert 'hx-swap-oob="true"' in rows
    again = await browser.get(f"/events/rows?newest={newest}", **LIVE)
    assert again.status_code == 204


async def test_who_called(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    await browser.get("/images")
    await browser.get("/connectors/none-of-this-name")
    page = await shown(browser, "/events/calls?only=failed", "GetNetworkConnector")
    assert "ListMicrovmImages" not in page
    rows = await browser.get("/events/calls/rows?newest=x&name=ListMicrovmImages", **LIVE)
    assert "ListMicrovmImages" in rows.text
    assert "user/bob" not in (await browser.get("/events/calls?user=bob")).text


async def test_a_page_that_goes_on_leaves_no_trace_and_who_opens_it_does(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    on = "/events/calls/rows?newest=x"
    for path in ("/events/rows?newest=x", "/images-rows", "/microvms/changes", on):
        assert (await browser.get(path, **LIVE)).status_code in (200, 204)
    await browser.get("/images")
    page = await shown(browser, on, "ListMicrovmImages")
    assert page.count("<summary>") == 2, "the login, and what was opened"
    await browser.get("/events/calls")
    await shown(browser, on, "<summary>LookupCalls")
    await browser.get("/microvm/microvm-none/summary", **LIVE)
    await shown(browser, f"{on}&only=failed", "<summary>GetMicrovm")


async def test_texts_stay_texts(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    browser.client.headers["user-agent"] = "<script>alert(1)</script>"
    await lab.signed("GET", "/events?resource=<script>alert(2)</script>")
    page = (await browser.get("/events/calls?name=<script>alert(3)</script>")).text
    page += (await browser.get("/events/calls")).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(3)" in page


async def test_who_did_it_stays_text(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    with acting(Actor(ActorKind.CALLER, "<script>alert(4)</script>", "r", None)):
        await lab.plane.images.create(ACCOUNT, CREATE)
    page = (await browser.get("/events")).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(4)" in page


async def test_it_takes_a_right(lab: ConsoleLab) -> None:
    ann = await lab.logged_in(await lab.user("ann"))
    answer = await ann.get("/events/calls")
    assert answer.status_code == 403
    assert "cloudtrail:LookupEvents" in answer.text
