"""Users, policies and keys in the console: a secret is shown once, and rights hold."""

import re

import pytest

from tests.consolelab import Browser, ConsoleLab
from tests.unit.control.plane import ACCOUNT

pytestmark = pytest.mark.anyio

READ = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"lambda:*","Resource":"*"}}'
USERS = f"/access/{ACCOUNT}/users"


async def _ann(browser: Browser) -> None:
    answer = await browser.post(USERS, {"name": "ann"})
    assert answer.headers["location"] == f"/console{USERS}/ann"


async def test_a_user_with_a_policy(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    await _ann(browser)
    assert "May do nothing" in (await browser.get(f"{USERS}/ann")).text
    fields = {"policy": "read", "document": READ}
    assert (await browser.post(f"{USERS}/ann/policies", fields)).status_code == 303
    assert "lambda:*" in (await browser.get(f"{USERS}/ann")).text
    assert (await browser.post(f"{USERS}/ann/policies/read/detach")).status_code == 303
    assert "May do nothing" in (await browser.get(f"{USERS}/ann")).text
    assert (await browser.post(f"{USERS}/ann/delete")).status_code == 303
    assert "/users/ann" not in (await browser.get("/access")).text


async def test_a_secret_is_shown_once(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    await _ann(browser)
    page = (await browser.post(f"/access/{ACCOUNT}/keys", {"user": "ann"})).text
    key, secret = re.findall(r'data-copy="([^"]+)"', page)[:2]
    assert secret not in (await browser.get("/access")).text
    assert secret not in (await browser.get("/events/calls")).text
    ann = lab.browser()
    assert (await ann.log_in(key, secret)).status_code == 303
    assert (await browser.post(f"/access/{ACCOUNT}/keys/{key}/revoke")).status_code == 303
    assert (await ann.get("/sessions")).status_code == 303


async def test_what_is_wrong_is_told(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    await _ann(browser)
    for fields in ({"policy": "", "document": READ}, {"policy": "a/b", "document": READ}):
        assert (await browser.post(f"{USERS}/ann/policies", fields)).status_code == 400
    bad = {"policy": "bad", "document": "{"}
    assert (await browser.post(f"{USERS}/ann/policies", bad)).status_code == 400


async def test_who_may_not(lab: ConsoleLab) -> None:
    ann = await lab.logged_in(await lab.user("ann"))
    assert (await ann.get("/access")).status_code == 403
    assert (await ann.post(USERS, {"name": "eve"})).status_code == 403
