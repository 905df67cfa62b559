"""What holds on every route of every page: headers, login, whose page asked, readable failures."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from microvmd.console.app import navigation_of
from microvmd.console.defence import HEADERS
from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.pages import all_pages
from microvmd.console.visit import COOKIE, Visit
from microvmd.model.errors import NotFound
from tests.consolelab import SAME, ConsoleLab, console_lab

pytestmark = pytest.mark.anyio

ROUTES = [(route, page) for page in all_pages() for route in page.routes]
GUARDED = [route for route, _ in ROUTES if not route.open]
UNSAFE = [route for route, _ in ROUTES if route.method != "GET"]
FOREIGN: list[dict[str, str]] = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"origin": "https://evil.test"},
    {"origin": "null"},
    {},
]
"""What browsers say of requests that no page of the console made."""


def _filled(path: str) -> str:
    """A path with something in place of its parameters."""
    return path.replace(":path}", "}").replace("{", "").replace("}", "")


def _paths(routes: list[BaseRoute], before: str = "") -> Iterator[str]:
    for route in routes:
        if isinstance(route, Mount):
            yield from _paths(list(route.routes or ()), before + route.path)
            yield before + route.path + "/nothing"
        elif isinstance(route, Route):
            yield before + _filled(route.path)


async def test_every_answer_has_the_headers(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    mounted = [r for r in lab.app.routes if str(getattr(r, "path", "")).startswith("/console")]
    paths = set(_paths(mounted))
    assert len(paths) > 8
    for path in sorted(paths):
        for method in ("GET", "POST", "DELETE"):
            answer = await browser.client.request(method, path)
            for name, value in HEADERS.items():
                assert answer.headers[name] == value, f"{method} {path}: {name}"


def test_the_policy_allows_nothing_inline() -> None:
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


async def test_strangers_are_sent_to_the_login(lab: ConsoleLab) -> None:
    client = lab.browser().client
    for route in GUARDED:
        path = f"/console{_filled(route.path)}"
        answer = await client.request(route.method, path, headers=SAME)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/console/login"), path
        part = await client.request(route.method, path, headers={**SAME, "hx-request": "true"})
        assert (part.status_code, part.headers["hx-redirect"]) == (401, "/console/login"), path


async def test_other_sites_do_nothing(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    for route in UNSAFE:
        for headers in FOREIGN:
            answer = await browser.client.request(
                route.method,
                f"/console{_filled(route.path)}",
                headers={**headers, "x-csrf-token": browser.csrf},
            )
            assert answer.status_code == 403, (route.path, headers)
            assert "nothing was done" in answer.text
    assert (await browser.get("/sessions")).status_code == 200


async def test_the_token_of_the_session_is_needed(lab: ConsoleLab) -> None:
    browser, other = await lab.logged_in(), await lab.logged_in()
    for route in UNSAFE:
        if route.open:
            continue
        path = f"/console{_filled(route.path)}"
        for given in ({}, {"x-csrf-token": other.csrf}, {"x-csrf-token": ""}):
            answer = await browser.client.request(route.method, path, headers={**SAME, **given})
            assert answer.status_code == 403, path
            assert "older than your login" in answer.text
    assert (await browser.get("/sessions")).status_code == 200


async def test_an_old_browser_is_known_by_its_origin(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    headers = {"origin": "https://console.test", "x-csrf-token": browser.csrf}
    answer = await browser.client.post("/console/logout", headers=headers)
    assert answer.status_code == 303


async def test_a_session_ends_with_its_key(lab: ConsoleLab) -> None:
    ann = await lab.user("ann")
    browser = await lab.logged_in(ann)
    assert (await browser.get("/sessions")).status_code == 200
    await lab.who.accounts.revoke_key(ann.account, ann.access_key)
    assert (await browser.get("/sessions")).status_code == 303


async def test_a_session_ends_with_a_temporary_key(lab: ConsoleLab) -> None:
    path = await lab.link(await lab.temporary(minutes=60))
    browser = lab.browser()
    assert (await browser.post(path)).status_code == 303
    assert (await browser.get("/sessions")).status_code == 200
    await lab.temporary(minutes=-1)
    assert (await browser.get("/sessions")).status_code == 303
    await lab.temporary(minutes=60)
    assert (await browser.get("/sessions")).status_code == 303, "it has ended for good"


async def test_a_token_that_nobody_has(lab: ConsoleLab) -> None:
    browser = lab.browser()
    for token in ("", "x", "a" * 5000):
        answer = await browser.get("/sessions", cookie=f"{COOKIE}={token}")
        assert answer.status_code == 303


async def _missing(_: Visit) -> Response:
    raise NotFound("no <such> thing")


async def _broken(_: Visit) -> Response:
    raise RuntimeError("secret detail")


async def test_failures_are_pages_and_hide_our_faults(tmp_path: Path) -> None:
    page = Page((PageRoute("/missing", _missing), PageRoute("/broken", _broken)))
    async with console_lab(tmp_path, more=[page]) as lab:
        browser = await lab.logged_in()
        missing = await browser.get("/missing")
        assert missing.status_code == 404
        assert "no &lt;such&gt; thing" in missing.text
        part = await browser.get("/missing", **{"hx-request": "true"})
        assert (part.status_code, part.text.startswith("<p")) == (404, True)
        broken = await browser.get("/broken")
        assert broken.status_code == 500
        assert "secret" not in broken.text
        assert "request id" in broken.text


async def test_a_live_part_keeps_no_session_alive(tmp_path: Path) -> None:
    async def show(visit: Visit) -> Response:
        return Response(str(visit.known.session.used_at))

    page = Page((PageRoute("/used", show), PageRoute("/live", show, live=True)))
    async with console_lab(tmp_path, more=[page]) as lab:
        browser = await lab.logged_in()
        used = (await browser.get("/used")).text
        assert (await browser.get("/live")).text == used


def test_sections_keep_their_order() -> None:
    async def show(visit: Visit) -> Response:
        raise NotImplementedError

    pages = [
        Page((PageRoute("/b", show),), Section.EVENTS),
        Page((PageRoute("/a", show),), Section.IMAGES),
        Page((PageRoute("/c", show),)),
    ]
    assert navigation_of(pages) == (("Images", "/console/a"), ("Events", "/console/b"))
