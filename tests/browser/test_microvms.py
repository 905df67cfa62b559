"""MicroVMs in the console, as somebody does it: run, look, Connect, suspend, resume, terminate."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browserlab import Tab, axe, shots
from tests.servicelab import AUTO_RESUME, Image, Microvm, Service

pytestmark = [pytest.mark.browser, pytest.mark.vm]

INGRESS = [
    f"arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:{name}_INGRESS"
    for name in ("HTTP", "SHELL")
]
HOSTILE = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>"
LONG = 60_000
"""Milliseconds for what a machine does under emulation."""


@pytest.fixture
def microvm(service: Service, notebook: Image) -> Microvm:
    """A RUNNING MicroVM with a terminal, which a request resumes."""
    return service.run(notebook, ingressNetworkConnectors=INGRESS, idlePolicy=AUTO_RESUME)


def state_of(page: Page, state: str) -> None:
    """Wait until the page shows it."""
    expect(page.locator("#summary .state").first).to_have_text(state, timeout=LONG)


def screen(page: Page) -> str:
    """What the terminal shows."""
    return page.locator("#terminal .xterm-rows").inner_text()


def connect(page: Page) -> None:
    page.get_by_role("button", name=re.compile("Connect")).click()
    expect(page.locator("#terminal-state")).to_have_text("Connected", timeout=LONG)


def type_line(page: Page, text: str) -> None:
    page.locator("#terminal textarea").focus()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def test_from_the_dialog_to_the_end(console: Tab, service: Service, notebook: Image) -> None:
    page = console.page
    page.goto("/console/microvms")
    expect(page.get_by_role("heading", name="No MicroVM lives")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Run a MicroVM").click()
    dialog = page.get_by_role("dialog", name="Run a MicroVM")
    name = notebook.arn.rpartition(":")[2]
    dialog.get_by_label("Image").select_option(label=name)
    axe(page)
    shots(page, "run-dialog")
    dialog.get_by_label("Version").fill("99.0")
    dialog.get_by_role("button", name="Run", exact=True).click()
    expect(dialog.locator(".notice.bad")).to_contain_text("99.0")
    dialog.get_by_label("Version").fill("")
    dialog.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url("**/console/microvm/microvm-*")
    state_of(page, "RUNNING")
    microvm_id = page.url.rpartition("/")[2]

    page.get_by_role("button", name="curl with a token").click()
    page.get_by_role("button", name="Make a token").click()
    line = page.locator("#curl").inner_text()
    found = re.search(r"X-aws-proxy-auth: (\S+)'", line)
    assert found is not None
    endpoint = service.api.get_microvm(microvmIdentifier=microvm_id)["endpoint"]
    answer = Microvm(service, microvm_id, endpoint).request(token=found[1])
    assert answer.status_code < 500
    shots(page, "token")
    page.get_by_role("button", name="Close").click()
    assert found[1] not in page.url

    page.get_by_role("button", name="Suspend").click()
    state_of(page, "SUSPENDED")
    page.get_by_role("button", name="Resume").click()
    state_of(page, "RUNNING")
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    state_of(page, "TERMINATED")
    axe(page)
    shots(page, "microvm-ended")
    page.goto("/console/microvms/ended")
    expect(page.get_by_text(microvm_id)).to_be_visible()
    axe(page)
    shots(page, "ended")


def test_a_terminal(console: Tab, microvm: Microvm) -> None:
    page = console.page
    page.goto(f"/console/microvm/{microvm.id}")
    connect(page)
    type_line(page, "echo $((6 * 7))-shown")
    expect(page.locator("#terminal .xterm-rows")).to_contain_text("42-shown", timeout=LONG)
    page.set_viewport_size({"width": 700, "height": 800})
    type_line(page, "stty size; echo narrow")
    expect(page.locator("#terminal .xterm-rows")).to_contain_text(
        re.compile(r"\d+ \d+\s*narrow"), timeout=LONG
    )
    narrow = int(re.findall(r"\d+ (\d+)\s*narrow", screen(page))[-1])
    page.set_viewport_size({"width": 1280, "height": 800})
    type_line(page, "stty size; echo wide")
    expect(page.locator("#terminal .xterm-rows")).to_contain_text(
        re.compile(r"\d+ \d+\s*wide"), timeout=LONG
    )
    assert int(re.findall(r"\d+ (\d+)\s*wide", screen(page))[-1]) > narrow + 20
    axe(page, "#terminal")
    shots(page, "terminal")
    page.get_by_role("button", name="Suspend").click()
    page.wait_for_load_state()
    state_of(page, "SUSPENDED")


def test_a_suspend_ends_a_terminal_and_a_request_resumes(console: Tab, microvm: Microvm) -> None:
    page = console.page
    page.goto(f"/console/microvm/{microvm.id}")
    connect(page)
    microvm.suspend()
    expect(page.locator("#terminal-state")).to_have_text("Ended: MicroVM suspended", timeout=LONG)
    state_of(page, "SUSPENDED")
    assert microvm.request(path="/names").status_code == 200
    state_of(page, "RUNNING")
    expect(page.locator("#legend")).to_contain_text("SUSPENDED", timeout=LONG)
    connect(page)


def test_what_an_application_writes_stays_text(console: Tab, microvm: Microvm) -> None:
    page = console.page
    page.goto(f"/console/microvm/{microvm.id}")
    microvm.execute(f"import os\nos.write(1, {HOSTILE!r}.encode() + bytes([10]))")
    expect(page.locator("#log")).to_contain_text(HOSTILE, timeout=LONG)
    assert page.locator("#log img, #log script").count() == 0
    connect(page)
    type_line(page, f"echo '{HOSTILE}'")
    expect(page.locator("#terminal .xterm-rows")).to_contain_text("onerror", timeout=LONG)
    assert page.locator("#terminal img, #terminal script").count() == 0


def test_the_list_goes_on_by_itself(console: Tab, service: Service, notebook: Image) -> None:
    page = console.page
    page.goto("/console/microvms")
    made = [service.run(notebook) for _ in range(3)]
    lines = page.locator("#rows tr")
    expect(lines).to_have_count(3, timeout=LONG)
    expect(page.locator("#rows .state.good")).to_have_count(3, timeout=LONG)
    expect(page.locator("#rows [data-cell=memory]").first).to_contain_text("MiB", timeout=LONG)
    axe(page)
    shots(page, "microvms")
    page.get_by_role("searchbox").fill(made[0].id)
    expect(lines).to_have_count(1)
    assert made[0].id in page.url
    page.get_by_role("searchbox").fill("")
    expect(lines).to_have_count(3)
    for one in made[:2]:
        page.get_by_label(f"Choose {one.id}").check()
    expect(page.locator("#chosen")).to_have_text("2 chosen")
    page.locator("#many").get_by_role("button", name="Terminate").click()
    dialog = page.get_by_role("dialog", name="Terminate 2 MicroVMs?")
    axe(page)
    dialog.get_by_role("button", name="Terminate").click()
    expect(page.locator("#notices")).to_contain_text("2 MicroVMs are being terminated.")
    expect(lines).to_have_count(1, timeout=LONG)


def test_the_cookie_is_for_this_host_and_no_script(console: Tab) -> None:
    (cookie,) = [one for one in console.page.context.cookies() if "session" in one["name"]]
    assert cookie["httpOnly"]
    assert cookie["secure"]
    assert cookie["sameSite"] in ("Lax", "Strict")
    console.page.goto("/console/microvms")
    assert console.page.evaluate("document.cookie") == ""
