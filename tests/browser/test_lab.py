"""The browser lab itself: each of its checks can fail, and it leaves nothing behind."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Route

from tests import browserlab
from tests.browserlab import Chromium, Tab, axe, children, open_tab, shots

pytestmark = pytest.mark.browser

ADDRESS = "http://lab.localhost/"
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"
HEAD = '<!doctype html><html lang="en"><title>lab</title><link rel="icon" href="data:,">'
SOUND = f"{HEAD}<main><h1>Sound</h1><p>Nothing to complain about.</p></main>"


def show(tab: Tab, body: str, *, script: str = "", policy: str = "") -> None:
    """Open a page of ``body``, whose own ``script`` its policy allows."""

    def answer(route: Route) -> None:
        if route.request.url.endswith("/script.js"):
            route.fulfill(body=script, content_type="text/javascript")
        elif route.request.url == ADDRESS:
            headers = {"Content-Type": "text/html; charset=utf-8"}
            headers |= {"Content-Security-Policy": policy} if policy else {}
            route.fulfill(body=body + '<script src="/script.js"></script>', headers=headers)
        else:
            route.fulfill(status=404)

    tab.page.route("**/*", answer)
    tab.page.goto(ADDRESS)


def test_a_sound_page_passes(tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browserlab, "SCREENSHOTS", tmp_path / "screenshots")
    show(tab, SOUND, policy=POLICY + "; img-src data:")
    axe(tab.page)
    kept = shots(tab.page, "lab")
    assert len({path.read_bytes() for path in kept}) >= 3, "three widths are three images"


@pytest.mark.parametrize(
    ("script", "body", "told"),
    [
        ("console.error('oh no')", SOUND, "console: oh no"),
        ("throw new Error('broken')", SOUND, "script: .*broken"),
        ("fetch('/missing')", SOUND, "answer: 404 to GET .*/missing"),
        ("fetch('http://outside.example/').catch(() => {})", SOUND, "outside.example"),
        ("", f"{SOUND}<p style='color: red'>red</p>", "CSP style-src-attr refused inline"),
        ("", f"{SOUND}<script>alert(1)</script>", "CSP script-src-elem refused inline"),
    ],
)
def test_a_complaint_is_heard(chromium: Chromium, script: str, body: str, told: str) -> None:
    with open_tab(chromium.browser) as tab:
        show(tab, body, script=script, policy=POLICY + "; img-src data:")
        tab.page.wait_for_load_state("networkidle")
        with pytest.raises(AssertionError, match=told):
            tab.check()
        tab.allow("")


def test_the_outside_is_out_of_reach(tab: Tab) -> None:
    tab.allow("outside.example")
    show(tab, SOUND)
    tab.page.unroute_all()
    tab.page.evaluate("() => fetch('http://outside.example/').catch(() => null)")
    assert any("ERR_NAME_NOT_RESOLVED" in text for text in tab.complaints)


def test_axe_finds_grave_faults(tab: Tab) -> None:
    show(tab, f"{HEAD}<main><h1>Form</h1><input type='text'><img src='data:,'></main>")
    with pytest.raises(AssertionError, match=r"(?s)image-alt.*label"):
        axe(tab.page)


def test_a_page_wider_than_its_window_is_found(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browserlab, "SCREENSHOTS", tmp_path)
    show(tab, f"{HEAD}<pre>{'x' * 200}</pre>")
    with pytest.raises(AssertionError, match="wider than the window"):
        shots(tab.page, "wide")


def test_its_processes_are_known(chromium: Chromium, tab: Tab) -> None:
    show(tab, SOUND)
    started = {
        pid: (Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in children({os.getpid()})
    }
    browsers = {
        pid for pid, line in started.items() if b"chromium" in line or b"playwright" in line
    }
    assert len(browsers) > 2
    assert browsers <= chromium.lasting()
