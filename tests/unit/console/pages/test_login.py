"""In and out: by key and by link, with bounds, and never to another site."""

import asyncio
import json
from typing import Any

import pytest

from microvmd.console.logins import FAILURES_OF_A_SOURCE
from microvmd.console.visit import COOKIE
from tests.consolelab import OPERATOR, Browser, ConsoleLab

pytestmark = pytest.mark.anyio


async def test_the_cookie_is_kept_from_scripts_and_other_sites(lab: ConsoleLab) -> None:
    answer = await lab.browser().log_in(OPERATOR.access_key, OPERATOR.secret_key)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert COOKIE.startswith("__Host-")
    for part in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert part in cookie.split("; ")
    assert "Domain" not in cookie


async def test_a_wrong_secret_keeps_the_name_and_says_no_more(lab: ConsoleLab) -> None:
    answers = [
        await lab.browser().log_in(name, "wrong") for name in (OPERATOR.access_key, "AKIANOBODY")
    ]
    for answer, name in zip(answers, (OPERATOR.access_key, "AKIANOBODY"), strict=True):
        assert answer.status_code == 403
        assert "no such access key with this secret" in answer.text
        assert f'value="{name}"' in answer.text
        assert "wrong" not in answer.text
        assert "set-cookie" not in answer.headers


async def test_guessing_is_cut_short(lab: ConsoleLab) -> None:
    browser = lab.browser()
    for _ in range(FAILURES_OF_A_SOURCE):
        assert (await browser.log_in(OPERATOR.access_key, "guess")).status_code == 403
    held = await browser.log_in(OPERATOR.access_key, OPERATOR.secret_key)
    assert held.status_code == 429
    assert "microvmd console" in held.text
    elsewhere = lab.browser("192.0.2.2")
    answer = await elsewhere.log_in(OPERATOR.access_key, OPERATOR.secret_key)
    assert answer.status_code == 303


@pytest.mark.parametrize(
    ("wanted", "went"),
    [
        ("/images", "/console/images"),
        ("/images/a.b-c_d", "/console/images/a.b-c_d"),
        ("//evil.test", "/console/"),
        ("https://evil.test", "/console/"),
        ("/\\evil.test", "/console/"),
        ("/a\r\nx: y", "/console/"),
        ("", "/console/"),
    ],
)
async def test_a_login_leads_to_pages_of_ours(lab: ConsoleLab, wanted: str, went: str) -> None:
    fields = {
        "access_key": OPERATOR.access_key,
        "secret_key": OPERATOR.secret_key,
        "next": wanted,
    }
    answer = await lab.browser().post("/login", fields)
    assert answer.headers["location"] == went


async def test_a_link_logs_in_once_and_only_when_asked(lab: ConsoleLab) -> None:
    path = await lab.link()
    browser = lab.browser()
    for _ in range(2):
        shown = await browser.get(path)
        assert shown.status_code == 200
        assert ":root" in shown.text
        assert "set-cookie" not in shown.headers
    assert (await browser.post(path)).status_code == 303
    assert (await browser.get("/sessions")).status_code == 200
    again = lab.browser()
    assert (await again.get(path)).status_code == 403
    assert (await again.post(path)).status_code == 403


async def test_a_link_of_a_revoked_key(lab: ConsoleLab) -> None:
    ann = await lab.user("ann")
    path = await lab.link(ann)
    await lab.who.accounts.revoke_key(ann.account, ann.access_key)
    assert (await lab.browser().post(path)).status_code == 403


async def test_a_link_of_a_temporary_key_ends_with_it(lab: ConsoleLab) -> None:
    path = await lab.link(await lab.temporary(minutes=60))
    assert (await lab.browser().get(path)).status_code == 200
    await lab.temporary(minutes=-1)
    assert (await lab.browser().get(path)).status_code == 403
    assert (await lab.browser().post(path)).status_code == 403


async def test_each_login_is_recorded_as_on_aws_and_tells_no_secret(lab: ConsoleLab) -> None:
    path = await lab.link()
    for sent in (OPERATOR.access_key, OPERATOR.secret_key):
        await lab.browser().log_in(sent, "a-wrong-secret")
    assert (await lab.browser().post(path)).status_code == 303
    assert (await lab.browser().post(path)).status_code == 403
    await lab.logged_in()
    found = await recorded(lab, "ConsoleLogin", 5)
    outcomes = [one["responseElements"]["ConsoleLogin"] for one in found]
    assert outcomes == ["Failure", "Failure", "Success", "Failure", "Success"]
    wrong, hidden, link, _, key = found
    for one in found:
        assert one["eventSource"] == "signin.amazonaws.com"
        assert one["eventType"] == "AwsConsoleSignIn"
        assert one["sourceIPAddress"] == "192.0.2.1"
        assert (one["readOnly"], one["requestParameters"]) == (False, None)
        assert "errorCode" not in one
        text = str(one)
        assert OPERATOR.secret_key not in text
        assert "a-wrong-secret" not in text
        assert path.rpartition("/")[2] not in text
    assert wrong["userIdentity"]["accessKeyId"] == OPERATOR.access_key
    assert wrong["errorMessage"] == "Failed authentication"
    assert hidden["userIdentity"]["userName"] == "HIDDEN_DUE_TO_SECURITY_REASONS"
    assert link["userIdentity"]["type"] == "Root"
    ways = [one["additionalEventData"]["LoginWith"] for one in (link, key)]
    assert ways == ["Link", "AccessKey"]


async def test_a_login_that_has_to_wait_is_recorded(lab: ConsoleLab) -> None:
    browser = lab.browser("192.0.2.7")
    for _ in range(FAILURES_OF_A_SOURCE + 1):
        await browser.log_in("AKIANOBODY", "guess")
    last = (await recorded(lab, "ConsoleLogin", FAILURES_OF_A_SOURCE + 1))[-1]
    assert last["responseElements"] == {"ConsoleLogin": "Failure"}
    assert "Too many" in last["errorMessage"]


async def recorded(lab: ConsoleLab, name: str, count: int) -> list[dict[str, Any]]:
    """So many calls of the name, oldest first: a thread of its own writes what was called."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            answer = await lab.signed("GET", f"/audit?name={name}&last=100")
            found = [json.loads(line) for line in answer.text.splitlines()]
    return found


async def test_logging_out_ends_the_session(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    copied = Browser(lab.browser().client)
    copied.client.cookies = browser.client.cookies.__class__(browser.client.cookies)
    assert (await copied.get("/sessions")).status_code == 200
    answer = await browser.post("/logout")
    assert answer.headers["location"] == "/console/login"
    assert f'{COOKIE}=""' in answer.headers["set-cookie"]
    assert (await copied.get("/sessions")).status_code == 303


async def test_the_theme_goes_round(lab: ConsoleLab) -> None:
    browser = lab.browser()
    seen = []
    for _ in range(4):
        page = (await browser.get("/login")).text
        seen.append(page.split('data-theme="')[1].split('"')[0])
        answer = await browser.post("/theme", {"next": "/login"})
        assert answer.headers["location"] == "/console/login"
    assert seen == ["auto", "light", "dark", "auto"]


async def test_a_theme_that_is_none(lab: ConsoleLab) -> None:
    page = await lab.browser().get("/login", cookie='microvmd-theme="><script>')
    assert 'data-theme="auto"' in page.text
