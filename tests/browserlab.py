"""Debian's Chromium, driven by tests: pages that must not complain, screenshots, and axe-core.

A page complains by an error in its console or its scripts, by what its content security policy
refuses, and by a request that fails; a test with a complaint fails. Nothing outside this machine is
reachable from the browser. `sync_playwright` keeps an event loop running in the thread that started
it, so one browser serves the tests of one folder, and those run no asyncio of their own.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, sync_playwright

from tests.checkout import CHECKOUT

CHROMIUM = Path("/usr/bin/chromium")
AXE = CHECKOUT / "build" / "javascript" / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = CHECKOUT / "build" / "screenshots"
WIDTHS = {360: 780, 1280: 800, 1920: 1080}
"""Viewports in CSS pixels, height by width."""
THEMES = ("light", "dark")
GRAVE = ("serious", "critical")
# Requests that the page itself took back (polls and streams, when it is left), and those that the
# browser gave up because an interface came or went on the machine, as they do with each MicroVM.
TAKEN_BACK = ("net::ERR_ABORTED", "net::ERR_NETWORK_CHANGED")
OPTIONS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost,"
    " EXCLUDE *.localhost",
    "--no-proxy-server",
    "--disable-dev-shm-usage",
    "--disable-gpu",
)
TELL = "microvmdComplain"
LISTEN = f"""
addEventListener("securitypolicyviolation", (event) => window.{TELL}(
    `CSP ${{event.effectiveDirective}} refused ${{event.blockedURI}} in ${{event.sourceFile}}`));
"""
OVERFLOW = """() => {
    const wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= wide) return [];
    return [...document.body.querySelectorAll("*")]
        .filter((one) => one.getBoundingClientRect().left + one.scrollWidth > wide + 1)
        .slice(-5).map((one) => one.outerHTML.slice(0, 120));
}"""


def children(of: set[int]) -> set[int]:
    """Pids of all descendants of ``of``, without these themselves."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
    found, grown = set(of), True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - of


@dataclass(frozen=True)
class Chromium:
    """A browser and the processes it is made of."""

    browser: Browser
    drivers: frozenset[int]

    def owns(self, interface: str) -> bool:
        """As `leaks.Resident` has it: a browser has no interfaces."""
        return False

    @property
    def group(self) -> str:
        return ""

    def lasting(self) -> set[int]:
        """Pids of the driver, the browser and its pages."""
        return set(self.drivers) | children(set(self.drivers))


@contextlib.contextmanager
def running_chromium() -> Iterator[Chromium]:
    """A browser, gone with all its processes when the block ends."""
    before = children({os.getpid()})
    with sync_playwright() as playwright:
        drivers = frozenset(children({os.getpid()}) - before)
        with playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS)) as browser:
            yield Chromium(browser, drivers)


@dataclass
class Tab:
    """One page and what it complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Take complaints that match ``pattern`` as wanted, so far and from now on."""
        self.allowed.append(pattern)

    def left(self) -> list[str]:
        """Complaints that nobody allowed."""
        return [
            text
            for text in self.complaints
            if not any(re.search(pattern, text) for pattern in self.allowed)
        ]

    def check(self) -> None:
        assert not self.left(), f"the page complained: {self.left()}"

    def listen(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)
        self.page.expose_function(TELL, lambda text: self.complaints.append(text))
        self.page.add_init_script(LISTEN)

    def _console(self, message: ConsoleMessage) -> None:
        # Refusals of the server are told by their answer, with the status.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(f"console: {message.text}")

    def _failed(self, request: Request) -> None:
        if request.failure == TAKEN_BACK[1]:
            self.allow("^console: htmx:(afterRequest|sendError)")
        if request.failure not in TAKEN_BACK:
            self.complaints.append(f"request: {request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            method = response.request.method
            self.complaints.append(f"answer: {response.status} to {method} {response.url}")


@contextlib.contextmanager
def open_tab(browser: Browser, **context: Any) -> Iterator[Tab]:
    """A page in a fresh profile (cookies, storage); a complaint fails the block at its end."""
    with browser.new_context(reduced_motion="reduce", **context) as profile:
        profile.set_default_timeout(60_000)
        tab = Tab(profile.new_page())
        tab.listen()
        yield tab
        tab.check()


def log_in(page: Page, access_key: str, secret_key: str) -> None:
    """On the page of the login."""
    page.get_by_label("Access key id").fill(access_key)
    page.get_by_label("Secret access key").fill(secret_key)
    page.get_by_role("button", name="Log in").click()


def drop(page: Page, target: str, path: Path) -> None:
    """Let go of a file or a folder of the disk over what this selector names, as a mouse does."""
    box = page.locator(target).bounding_box()
    assert box is not None
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})
    session.detach()


def shots(page: Page, name: str) -> list[Path]:
    """Images of the whole page for each width and theme; one wider than its window fails."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    size, kept, wide = page.viewport_size, [], {}
    for theme in THEMES:
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        for width, height in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": height})
            page.evaluate("scrollTo(0, 0)")
            path = SCREENSHOTS / f"{name}-{width}-{theme}.png"
            # Written here: the driver would start threads for it.
            path.write_bytes(page.screenshot(full_page=True))
            kept.append(path)
            if found := page.evaluate(OVERFLOW):
                wide[width] = found
    page.emulate_media(color_scheme=None)
    if size is not None:
        page.set_viewport_size(size)
    assert not wide, f"{name} is wider than the window: {wide}"
    return kept


def axe(page: Page, *others: str) -> None:
    """Fail on what axe-core calls serious or critical, in both themes. What is within ``others``
    (selectors) was written by somebody else, such as a guest's program."""
    grave = []
    for theme in THEMES:
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        # The driver's way in is not bound by the page's policy.
        page.evaluate(AXE.read_text())
        found = page.evaluate(
            "(others) => axe.run({exclude: others}, {resultTypes: ['violations']})", list(others)
        )
        grave += [
            f"{theme}: {one['id']} ({one['impact']}): {one['help']}: "
            + "; ".join(node["html"][:160] for node in one["nodes"][:3])
            for one in found["violations"]
            if one["impact"] in GRAVE
        ]
    page.emulate_media(color_scheme=None)
    assert not grave, "\n".join(grave)
